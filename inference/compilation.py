"""Regional compilation: blocks of a kind share their code, so each kind is compiled once.

A whole UNet takes minutes to compile and again with every shape; its blocks give most of the gain
in a fraction of that.
"""

from collections.abc import Collection
from typing import Final

from torch import nn

WITHOUT_ATTENTION: Final = frozenset({"ResnetBlock2D", "FeedForward"})
"""What attention control does not touch: everything between the attention sites."""


def compile_blocks(network: nn.Module, kinds: Collection[str], dynamic: bool | None = None) -> None:
    """Compile each block of the named kinds, in place, at its first call.

    Names of weights stay as they are.

    Args:
        network: A UNet of diffusers.
        kinds: Names of classes.
        dynamic: Whether the code is to fit any size of batch; None compiles anew for a second
            size, and then for any.
    """
    for module in network.modules():
        if type(module).__name__ in kinds:
            module.compile(dynamic=dynamic)
