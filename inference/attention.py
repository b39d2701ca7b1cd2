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
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention


class NoSites(ValueError):
    """The model has no attention site that can be controlled."""


class LostHook(RuntimeError):
    """The control over attention was lost, so the images would silently be uncontrolled."""


RowPairs = tuple[tuple[int, int], ...]
"""(source, target) rows of a UNet's batch."""


@dataclass(frozen=True, kw_only=True, eq=False)
class CrossMaps:
    """Cross-attention maps of target rows, rewritten from those of source rows.

    A target's map becomes `A_source @ matrix` in the columns that are taken, and stays its own in
    the others (Prompt-to-Prompt, section 3.2; see `alignment.Alignment`).

    Attributes:
        rows: E (source, target) rows.
        matrix: (E, L, L), source positions by target positions.
        taken: (E, L) bool.
    """

    rows: RowPairs
    matrix: Tensor
    taken: Tensor


@dataclass(frozen=True, kw_only=True)
class RowSharing:
    """Target rows attend where their source rows attend; their values stay their own.

    Attributes:
        self_attention: Rows that share in self-attention, which keeps the layout.
        cross_attention: Rows that share in cross-attention. The keys then come from the source's
            prompt, so token j of the target's prompt is placed where token j of the source's was.
        cross_maps: The same, for prompts whose tokens do not stand in the same positions.
    """

    self_attention: RowPairs = ()
    cross_attention: RowPairs = ()
    cross_maps: CrossMaps | None = None

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

    Set `sharing` between UNet calls, as often as wanted: to switch it off (None), or to other rows
    as the batch grows.
    """

    def __init__(self, sites: dict[str, Attention], sharing: RowSharing | None) -> None:
        self.sharing = sharing
        self._sites = sites
        self._called = 0
        self._processor = _SharingProcessor(self)

    def _install(self) -> None:
        for site in self._sites.values():
            site.set_processor(self._processor)

    def _before_unet(self, *_: Any) -> None:
        for name, site in self._sites.items():
            if site.processor is not self._processor:
                raise LostHook(
                    f"attention control was lost: the processor of {name} was replaced by "
                    f"{type(site.processor).__name__} while it was under control"
                )
        self._called = 0

    def _after_unet(self, *_: Any) -> None:
        if self.sharing is not None and self._called != len(self._sites):
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

    def __init__(self, hooks: Hooks) -> None:
        self._hooks = hooks

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
        rows = self._rows(encoder_hidden_states is not None, len(q), q.device)
        if rows is not None:
            q, k = q[rows], k[rows]
            mask = None if mask is None else mask[rows]
        out = _attend(attn, q, k, v, mask)
        maps = None if self._hooks.sharing is None else self._hooks.sharing.cross_maps
        if maps is not None and encoder_hidden_states is not None:
            out = _rewritten(attn, out, q, k, v, mask, maps)
        out = attn.to_out[1](attn.to_out[0](out))
        if residual.ndim == 4:
            out = out.transpose(1, 2).reshape(residual.shape)
        if attn.residual_connection:
            out = out + residual
        result: Tensor = out / attn.rescale_output_factor
        return result

    def _rows(self, is_cross: bool, batch: int, device: torch.device) -> Tensor | None:
        sharing = self._hooks.sharing
        if sharing is None:
            return None
        pairs = sharing.cross_attention if is_cross else sharing.self_attention
        return _row_index(pairs, batch, device) if pairs else None


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


def _rewritten(
    attn: Attention,
    out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    maps: CrossMaps,
) -> Tensor:
    """`out`, (B, L, H·D), with the target rows attending by their rewritten maps."""
    sources, targets = (list(rows) for rows in zip(*maps.rows, strict=True))
    theirs, own = (
        _map(attn, q[rows], k[rows], None if mask is None else mask[rows])
        for rows in (sources, targets)
    )
    moved = theirs @ maps.matrix[:, None].to(theirs)
    edited = torch.where(maps.taken[:, None, None].to(own.device), moved, own)
    out = out.clone()
    out[targets] = (edited.to(v) @ v[targets]).transpose(1, 2).flatten(2)
    return out


def _map(attn: Attention, q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
    """(B, H, L, D) queries and keys to the maps (B, H, L of q, L of k), in float32 at least."""
    dtype = torch.promote_types(q.dtype, torch.float32)
    scores: Tensor = attn.scale * q.to(dtype) @ k.to(dtype).transpose(-1, -2)
    return (scores if mask is None else scores + mask).softmax(dim=-1)
