"""Train instruction-based image editors: shards in, a stock diffusers folder out."""

import inference  # noqa: F401  # the torchvision guard, before anything imports torchvision
