"""Make training data for instruction-based image editors: captions in, shards of pairs out."""

import inference  # noqa: F401  # the torchvision guard, before anything imports torchvision
