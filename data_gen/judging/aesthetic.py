"""How pleasing a picture is: LAION's aesthetic predictor, a linear head on CLIP's image features.

The head was trained on people's ratings, 1 to 10, of pictures seen by one CLIP (for Stable
Diffusion's data ViT-L/14), resized and cropped as that CLIP's own preprocessing does; it says
nothing of another CLIP's features, nor of pictures that are resized otherwise.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
from torch import Tensor

from data_gen.judging.filter import image_features
from data_gen.judging.scorers import of_each_image
from data_gen.records import ImageArray, ImagePair
from inference.clip import ClipScorer
from inference.tensors import read_tensors


@dataclass(frozen=True, kw_only=True)
class Aesthetic:
    """Scores the less pleasing of a pair's pictures.

    Attributes:
        clip: The CLIP that the head was trained on.
        weight: (D,), for unit features of D dimensions.
        bias: What is added.
    """

    clip: ClipScorer
    weight: Tensor
    bias: float
    name: ClassVar[str] = "aesthetic"
    dear: ClassVar[bool] = False

    @classmethod
    def load(cls, head: Path, clip: ClipScorer) -> Self:
        """Read a head: a safetensors file with a ``weight``, (1, D), and a ``bias``, (1,).

        A prefix of their names is passed over.

        Raises:
            ValueError: It holds something else, or is made for a CLIP of other dimensions.
        """
        _, found = read_tensors(head, "cpu")
        shapes = {name: tuple(tensor.shape) for name, tensor in found.items()}
        tensors = {name.rsplit(".", 1)[-1]: tensor for name, tensor in found.items()}
        width = image_features([np.zeros((64, 64, 3), np.uint8)], clip).shape[-1]
        if (
            len(found) != 2
            or set(tensors) != {"weight", "bias"}
            or tensors["weight"].shape != (1, width)
            or tensors["bias"].shape != (1,)
        ):
            raise ValueError(
                f"{head} holds {shapes}, expected a linear head on this CLIP's features: "
                f"a weight (1, {width}) and a bias (1,)"
            )
        weight = tensors["weight"][0].to(clip.device).float()
        return cls(clip=clip, weight=weight, bias=float(tensors["bias"]))

    def __call__(self, pairs: Sequence[ImagePair]) -> list[float]:
        """See `Scorer`."""
        return [float(np.minimum(*both)) for both in of_each_image(pairs, self._of_images)]

    def _of_images(self, images: Sequence[ImageArray]) -> list[float]:
        features = image_features(images, self.clip, as_trained=True)
        values: list[float] = (features @ self.weight + self.bias).tolist()
        return values
