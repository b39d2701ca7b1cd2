"""What Plug-and-Play takes from a picture, kept on disk from one edit to the next."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import save_file
from torch import Tensor

from inference.attention import QueriesKeys
from inference.files import written_atomically
from inference.tensors import read_tensors, require_tensors

FORMAT: Final = "emend features 1"


@dataclass(frozen=True, kw_only=True)
class Features:
    """Of B pictures, for the first steps of their way back.

    Attributes:
        start: (B, C, h, w), the state before the first step.
        decoder: (F, B, C', h', w'), a decoder feature in each of F steps.
        query_keys: Site -> queries and keys, (A, B, H, L, D) each, in each of A steps.
    """

    start: Tensor
    decoder: Tensor
    query_keys: Mapping[str, QueriesKeys]

    def decoder_at(self, i: int) -> Tensor | None:
        """(B, C', h', w') of step i; None from the last kept one on."""
        return self.decoder[i] if i < len(self.decoder) else None

    def query_keys_at(self, i: int) -> dict[str, QueriesKeys]:
        """Site -> queries and keys of step i; nothing from the last kept one on."""
        return {site: (q[i], k[i]) for site, (q, k) in self.query_keys.items() if i < len(q)}

    @staticmethod
    def together(parts: "Sequence[Features]") -> "Features":
        """Those of several pictures as one."""
        return Features(
            start=torch.cat([part.start for part in parts]),
            decoder=torch.cat([part.decoder for part in parts], dim=1),
            query_keys={
                site: (
                    torch.cat([part.query_keys[site][0] for part in parts], dim=1),
                    torch.cat([part.query_keys[site][1] for part in parts], dim=1),
                )
                for site in parts[0].query_keys
            },
        )


def save_features(path: Path, features: Features) -> None:
    """Write features as safetensors, atomically."""
    tensors = {"start": features.start, "decoder": features.decoder}
    for site, (q, k) in features.query_keys.items():
        tensors |= {f"q {site}": q, f"k {site}": k}
    with written_atomically(path) as temporary:
        contiguous = {name: tensor.contiguous().cpu() for name, tensor in tensors.items()}
        save_file(contiguous, temporary, metadata={"format": FORMAT})


def load_features(path: Path, device: torch.device) -> Features:
    """Read what `save_features` wrote.

    Raises:
        ValueError: The file holds something else.
    """
    metadata, found = read_tensors(path, str(device))
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{path} holds no features: its format is {metadata.get('format')!r}")
    sites = [name.removeprefix("q ") for name in found if name.startswith("q ")]
    require_tensors(found, ["start", "decoder", *(f"k {site}" for site in sites)], str(path))
    return Features(
        start=found["start"],
        decoder=found["decoder"],
        query_keys={site: (found[f"q {site}"], found[f"k {site}"]) for site in sites},
    )
