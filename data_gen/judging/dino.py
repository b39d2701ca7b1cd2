"""How much of a picture an edit leaves: source against edited image as DINO sees them.

Self-supervised features tell this horse from that one, where CLIP says "a horse" of both (Caron et
al. 2021; as a measure of subjects, Ruiz et al. 2023, section 4.1).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModel

from data_gen.judging.scorers import of_each_image
from data_gen.judging.vision_folders import inputs, load_processor, load_vision_model
from data_gen.records import ImageArray, ImagePair


@dataclass(frozen=True, kw_only=True)
class Dino:
    """Cosine of the CLS embeddings of a pair's pictures.

    Attributes:
        model: A vision transformer whose last layer's first token is CLS, such as DINOv2.
        processor: Its image processor.
    """

    model: Any
    processor: Any
    name: ClassVar[str] = "dino"
    dear: ClassVar[bool] = False

    @classmethod
    def load(cls, folder: Path, device: torch.device) -> Self:
        """Load a transformers folder, such as a copy of ``facebook/dinov2-base``.

        Raises:
            FileNotFoundError, ValueError: As `load_vision_model` and `load_processor`.
        """
        model = load_vision_model(AutoModel, folder, device)
        return cls(model=model, processor=load_processor(folder))

    def __call__(self, pairs: Sequence[ImagePair]) -> list[float]:
        """See `Scorer`."""
        return [float(source @ edited) for source, edited in of_each_image(pairs, self._features)]

    @torch.inference_mode()
    def _features(self, images: Sequence[ImageArray]) -> Sequence[Tensor]:
        """Unit features, (D,) each."""
        batches = inputs(images, self.processor, self.model.device)
        found = [self.model(pixels).last_hidden_state[:, 0] for pixels in batches]
        return F.normalize(torch.cat(found), dim=-1).cpu().unbind()
