"""From pairs to what the VAE says of them."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data_gen.imports.reading import BadPair, Reader
from data_gen.records import ImagePair
from inference.noise import keyed_seed
from training.data.framing import Cut, nearest, plan_cut, survives_a_mirror
from training.data.latent_shards import TEXTS, About


@dataclass(frozen=True, kw_only=True)
class _Framed:
    """A cut pair that waits to be encoded."""

    row: int
    source: Tensor
    edited: Tensor


@dataclass(kw_only=True)
class Encoded:
    """What is known of a pair.

    Attributes:
        description: Its texts.
        cuts: One a variation.
        latents: Means and deviations of the cuts encoded so far, by name.
    """

    description: dict[str, Any]
    cuts: list[Cut]
    latents: dict[str, list[Tensor]] = field(default_factory=lambda: defaultdict(list))


@dataclass(frozen=True, kw_only=True)
class PairEncoder:
    """Encodes pairs; the same ones in the same unit give the same bytes."""

    vae: Any
    reader: Reader
    about: About
    batch_size: int
    seed: int

    def unit(self, rows: Sequence[int]) -> Iterator[tuple[int, Encoded | BadPair]]:
        """Encode the pairs of a unit, in batches of one size, and yield each when it is whole."""
        waiting: dict[tuple[int, ...], list[_Framed]] = defaultdict(list)
        gathered: dict[int, Encoded] = {}
        for row in rows:
            try:
                pair = self.reader.read(row)
            except BadPair as error:
                yield row, error
                continue
            gathered[row] = Encoded(description=_description(pair), cuts=self._cuts(row, pair))
            for cut in gathered[row].cuts:
                source, edited = (_normalised(cut.of(one)) for one in (pair.source, pair.edited))
                queue = waiting[cut.target]
                queue.append(_Framed(row=row, source=source, edited=edited))
                if len(queue) * 2 >= self.batch_size:
                    self._encode(waiting.pop(cut.target), gathered)
            yield from self._whole(gathered)
        for queue in waiting.values():
            self._encode(queue, gathered)
        yield from self._whole(gathered)

    def _cuts(self, row: int, pair: ImagePair) -> list[Cut]:
        """A pair's cuts, functions of its key."""
        framing, sides = self.about.framing, pair.source.shape[:2]
        texts = (pair.triplet.instruction, pair.triplet.inverse_instruction)
        rng = np.random.default_rng(keyed_seed("latents", self.seed, self.reader.key(row)))
        return [
            plan_cut(
                (sides[0], sides[1]),
                framing,
                rng,
                bucket=nearest(framing.buckets, *sides) if framing.buckets else 0,
                may_mirror=framing.flip_all or all(map(survives_a_mirror, texts)),
            )
            for _ in range(self.about.variations)
        ]

    @torch.no_grad()
    def _encode(self, queue: Sequence[_Framed], gathered: Mapping[int, Encoded]) -> None:
        images = torch.stack([one.source for one in queue] + [one.edited for one in queue])
        posterior = self.vae.encode(images.to(self.vae.device, self.vae.dtype)).latent_dist
        means, deviations = (
            part.to("cpu", torch.float16) for part in (posterior.mean, posterior.std)
        )
        for number, one in enumerate(queue):
            found = gathered[one.row].latents
            for name, place in (("source", number), ("edited", number + len(queue))):
                found[f"{name}.mean"].append(means[place])
                found[f"{name}.deviation"].append(deviations[place])

    def _whole(self, gathered: dict[int, Encoded]) -> Iterator[tuple[int, Encoded]]:
        """Yield and forget the pairs whose cuts are all encoded, in their order."""
        for row in list(gathered):
            if len(gathered[row].latents["source.mean"]) < self.about.variations:
                return
            yield row, gathered.pop(row)


def _normalised(image: Any) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1) / 127.5 - 1


def _description(pair: ImagePair) -> dict[str, Any]:
    texts = {name: getattr(pair.triplet, name) for name in TEXTS}
    return {"key": pair.key, "group": pair.triplet.id, **texts}
