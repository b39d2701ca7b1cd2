"""How latents are computed before training: the options."""

from typing import Literal

Precision = Literal["float32", "bfloat16"]
