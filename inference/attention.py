"""Attention control: one stateless processor at every attention site of a UNet.

Copying the source's attention map A_src = softmax(Q_src K_srcᵀ) to a target row is the same as
attending with the source's queries and keys and the target's own values. So sharing of maps is a
copy of rows of q and k before a fused attention, and no map is ever stored. That covers the "random
p" of InstructPix2Pix, Prompt-to-Prompt's self-attention and the attention of Plug-and-Play.

Only where columns of a cross-attention map have to change places, because a word takes more tokens
than the one before, are maps computed (`CrossMaps`): of the rows concerned, one site at a time.

What is shared is read from the `Hooks` at every call; nothing counts layers or steps.

Shapes: B rows of the UNet's batch, L positions, H heads, D channels a head.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from inference.cross_maps import CrossMaps, RowPairs, edited_maps
from inference.errors import ExpectedError


class NoSites(ValueError):
    """The model has no attention site that can be controlled."""


class LostHook(ExpectedError):
    """The control over attention was lost, so the images would silently be uncontrolled."""


class MapRecorder:
    """Sums up the cross-attention maps of some rows, over sites and calls, at one resolution.

    Attributes:
        rows: R rows whose maps to take, as they are after any rewriting.
        positions: Latent positions h·w of the sites that count, such as 16·16.
        scaled: Whether they are taken as the factors of `CrossMaps.scale` leave them, or as they
            are before those.
        total: (R, positions, L), the sum over sites of the mean over heads.
    """

    def __init__(self, rows: Sequence[int], positions: int, *, scaled: bool = True) -> None:
        self.rows = tuple(rows)
        self.positions = positions
        self.scaled = scaled
        self.total: Tensor | None = None

    def add(self, maps: Tensor) -> None:
        """Add the maps of one site, (R, H, positions, L)."""
        mean = maps.mean(dim=1)
        self.total = mean if self.total is None else self.total + mean


QueriesKeys = tuple[Tensor, Tensor]
"""Queries and keys of one self-attention site, (B, H, L, D) each."""


class QueryKeyRecorder:
    """Takes down the queries and keys of some self-attention sites in a UNet call.

    Attributes:
        sites: Names of the sites.
        found: What they had in the last call.
    """

    def __init__(self, sites: frozenset[str]) -> None:
        self.sites = sites
        self.found: dict[str, QueriesKeys] = {}


SiteChoice = Callable[[str, int], bool]
"""Whether a site counts, by its name in the UNet and its number of latent positions."""


@dataclass(frozen=True, kw_only=True)
class RowSharing:
    """Target rows attend where their source rows attend; their values stay their own.

    Attributes:
        self_attention: Rows that share in self-attention, which keeps the layout.
        cross_attention: Rows that share in cross-attention. The keys then come from the source's
            prompt, so token j of the target's prompt is placed where token j of the source's was.
        cross_maps: The same, for prompts whose tokens do not stand in the same positions.
        self_sites: The self-attention sites that share; None for all.
    """

    self_attention: RowPairs = ()
    cross_attention: RowPairs = ()
    cross_maps: CrossMaps | None = None
    self_sites: SiteChoice | None = None

    def __post_init__(self) -> None:
        rewritten = () if self.cross_maps is None else self.cross_maps.rows
        for pairs in (self.self_attention, self.cross_attention + rewritten):
            sources, targets = {source for source, _ in pairs}, {target for _, target in pairs}
            if len(targets) != len(pairs) or sources & targets:
                raise ValueError(f"a row shares with two others or is source and target: {pairs}")
            if min(sources | targets, default=0) < 0:
                raise ValueError(f"rows are counted from 0: {pairs}")


class Hooks:
    """What the attention sites of one UNet do now.

    Set them between UNet calls, as often as wanted: to switch them off (None, or nothing given), or
    to other rows as the batch grows.

    Attributes:
        sharing: Which rows attend as which.
        recorder: Takes down cross-attention maps.
        query_keys: Takes down queries and keys.
        given: Site -> the queries and keys that it takes instead of its own, of (R, …) rows; a
            batch of a multiple of R rows takes them again and again.
    """

    def __init__(self, sites: dict[str, Attention], sharing: RowSharing | None) -> None:
        self.sharing = sharing
        self.recorder: MapRecorder | None = None
        self.query_keys: QueryKeyRecorder | None = None
        self.given: Mapping[str, QueriesKeys] = {}
        self._sites = sites
        self._called = 0
        self._processors = {name: _SharingProcessor(self, name) for name in sites}

    def _exchanged(self, site: str, q: Tensor, k: Tensor) -> QueriesKeys:
        """The queries and keys with which a self-attention site is to go on."""
        if self.query_keys is not None and site in self.query_keys.sites:
            self.query_keys.found[site] = q, k
        if site not in self.given:
            return q, k
        taken_q, taken_k = self.given[site]
        again = (len(q) // len(taken_q), 1, 1, 1)
        return taken_q.to(q).repeat(again), taken_k.to(k).repeat(again)

    def _install(self) -> None:
        for name, site in self._sites.items():
            site.set_processor(self._processors[name])

    def _before_unet(self, *_: Any) -> None:
        for name, site in self._sites.items():
            if site.processor is not self._processors[name]:
                raise LostHook(
                    f"attention control was lost: the processor of {name} was replaced by "
                    f"{type(site.processor).__name__} while it was under control"
                )
        self._called = 0

    def _after_unet(self, *_: Any) -> None:
        controls = (self.sharing, self.recorder, self.query_keys, self.given or None)
        if any(control is not None for control in controls) and self._called != len(self._sites):
            raise LostHook(
                f"attention control was lost: {self._called} of {len(self._sites)} attention "
                "sites were called"
            )


@contextmanager
def controlled(unet: nn.Module, sharing: RowSharing | None = None) -> Iterator[Hooks]:
    """Control every attention site of `unet`; the former processors return on exit.

    Args:
        unet: A diffusers UNet, called as a module (`unet(...)`) inside the context.
        sharing: What to share at first; None attends as usual.

    Yields:
        The hooks, whose `sharing` may be set between calls.

    Raises:
        NoSites: The UNet has no attention.
        ValueError: A site carries a processor of its own, which control would silently discard.
        LostHook: In a UNet call: a processor was replaced, or sites were passed over.
    """
    sites = {name: site for name, site in unet.named_modules() if isinstance(site, Attention)}
    if not sites:
        raise NoSites(f"{type(unet).__name__} has no attention sites to control")
    former: dict[str, Any] = {name: site.processor for name, site in sites.items()}
    for name, processor in former.items():
        if type(processor) not in (AttnProcessor, AttnProcessor2_0):
            raise ValueError(
                f"{name} carries {type(processor).__name__}, which attention control would discard;"
                " expected diffusers' default processor"
            )
    hooks = Hooks(sites, sharing)
    handles = [
        unet.register_forward_pre_hook(hooks._before_unet),
        unet.register_forward_hook(hooks._after_unet),
    ]
    try:
        hooks._install()
        yield hooks
    finally:
        for handle in handles:
            handle.remove()
        for name, site in sites.items():
            site.set_processor(former[name])


class _SharingProcessor:
    """diffusers' default attention, with rows of q and k copied as the hooks say."""

    def __init__(self, hooks: Hooks, site: str) -> None:
        self._hooks = hooks
        self._site = site

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        self._hooks._called += 1
        residual = hidden_states
        hidden_states = _tokens(attn, hidden_states, temb)
        context = _context(attn, hidden_states, encoder_hidden_states)
        q = _heads(attn, attn.to_q(hidden_states))
        k = _heads(attn, attn.to_k(context))
        v = _heads(attn, attn.to_v(context))
        q = q if attn.norm_q is None else attn.norm_q(q)
        k = k if attn.norm_k is None else attn.norm_k(k)
        mask = _mask(attn, attention_mask, context)
        is_cross = encoder_hidden_states is not None
        if not is_cross:
            q, k = self._hooks._exchanged(self._site, q, k)
        out = self._shared(attn, is_cross, q, k, v, mask)
        if is_cross:
            out = self._rewritten(attn, out, q, k, v, mask)
        out = attn.to_out[1](attn.to_out[0](out))
        if residual.ndim == 4:
            out = out.transpose(1, 2).reshape(residual.shape)
        if attn.residual_connection:
            out = out + residual
        result: Tensor = out / attn.rescale_output_factor
        return result

    def _shared(
        self, attn: Attention, is_cross: bool, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None
    ) -> Tensor:
        rows = self._rows(is_cross, q)
        if rows is not None:
            q, k = q[rows], k[rows]
            mask = None if mask is None else mask[rows]
        return _attend(attn, q, k, v, mask)

    def _rows(self, is_cross: bool, q: Tensor) -> Tensor | None:
        sharing = self._hooks.sharing
        if sharing is None:
            return None
        pairs = sharing.cross_attention
        if not is_cross:
            chosen = sharing.self_sites is None or sharing.self_sites(self._site, q.shape[2])
            pairs = sharing.self_attention if chosen else ()
        return _row_index(pairs, len(q), q.device) if pairs else None

    def _rewritten(
        self, attn: Attention, out: Tensor, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None
    ) -> Tensor:
        """`out`, (B, L, H·D), of cross-attention, as rewritten maps have it; they are recorded."""
        edits = None if self._hooks.sharing is None else self._hooks.sharing.cross_maps
        if edits is not None:
            maps = edited_maps(edits, lambda rows: _map(attn, q, k, mask, rows))
            targets = [target for _, target in edits.rows]
            out = out.clone()
            out[targets] = (maps.to(v) @ v[targets]).transpose(1, 2).flatten(2)
        recorder = self._hooks.recorder
        if recorder is not None and recorder.positions == q.shape[2]:
            recorder.add(self._recorded(attn, q, k, mask, recorder))
        return out

    def _recorded(
        self, attn: Attention, q: Tensor, k: Tensor, mask: Tensor | None, recorder: MapRecorder
    ) -> Tensor:
        """(R, H, L, L of the text), the maps by which the rows of a recorder attended."""
        sharing, rows = self._hooks.sharing or RowSharing(), recorder.rows
        attended_as = {target: source for source, target in sharing.cross_attention}
        maps = _map(attn, q, k, mask, [attended_as.get(row, row) for row in rows])
        if sharing.cross_maps is not None:
            edits = sharing.cross_maps
            edits = edits if recorder.scaled else replace(edits, scale=None)
            edited = edited_maps(edits, lambda some: _map(attn, q, k, mask, some))
            for number, (_, target) in enumerate(edits.rows):
                if target in rows:
                    maps[rows.index(target)] = edited[number]
        return maps


@functools.lru_cache(maxsize=256)
def _row_index(pairs: RowPairs, batch: int, device: torch.device) -> Tensor:
    """For every row the row whose q and k it uses; kept, since building it waits for a GPU."""
    rows = list(range(batch))
    if max(max(pair) for pair in pairs) >= batch:
        raise ValueError(f"attention sharing names rows {pairs}, but the batch has {batch} rows")
    for source, target in pairs:
        rows[target] = source
    return torch.tensor(rows, device=device)


def _tokens(attn: Attention, hidden_states: Tensor, temb: Tensor | None) -> Tensor:
    """(B, C, h, w) or (B, L, C) to normalised (B, L, C)."""
    if attn.spatial_norm is not None:
        hidden_states = attn.spatial_norm(hidden_states, temb)
    if hidden_states.ndim == 4:
        hidden_states = hidden_states.flatten(2).transpose(1, 2)
    if attn.group_norm is not None:
        hidden_states = attn.group_norm(hidden_states.transpose(1, 2)).transpose(1, 2)
    return hidden_states


def _context(attn: Attention, hidden_states: Tensor, text: Tensor | None) -> Tensor:
    """What is attended to: the text in cross-attention, else the positions themselves."""
    if text is None:
        return hidden_states
    normalised: Tensor = attn.norm_encoder_hidden_states(text) if attn.norm_cross else text
    return normalised


def _heads(attn: Attention, projected: Tensor) -> Tensor:
    """(B, L, H·D) to (B, H, L, D)."""
    heads: Tensor = projected.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
    return heads


def _mask(attn: Attention, mask: Tensor | None, context: Tensor) -> Tensor | None:
    """The additive mask as (B, H, 1 or L, L of the context)."""
    if mask is None:
        return None
    batch, length, _ = context.shape
    prepared = attn.prepare_attention_mask(mask, length, batch)
    heads: Tensor = prepared.view(batch, attn.heads, -1, prepared.shape[-1])
    return heads


def _attend(attn: Attention, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """(B, H, L, D) to (B, L, H·D)."""
    if attn.upcast_attention:
        q, k = q.float(), k.float()
    out = scaled_dot_product_attention(q, k, v.to(q), attn_mask=mask, scale=attn.scale)
    return out.transpose(1, 2).flatten(2).to(v)


def _map(attn: Attention, q: Tensor, k: Tensor, mask: Tensor | None, rows: Sequence[int]) -> Tensor:
    """Attention maps of R rows of (B, H, L, D) queries and keys: (R, H, L of q, L of k).

    In float32 at least.
    """
    chosen = list(rows)
    dtype = torch.promote_types(q.dtype, torch.float32)
    scores: Tensor = attn.scale * q[chosen].to(dtype) @ k[chosen].to(dtype).transpose(-1, -2)
    return (scores if mask is None else scores + mask[chosen]).softmax(dim=-1)
