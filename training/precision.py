"""bf16 training on a CPU, with attention left in float32.

Under bf16 autocast the convolutions and matrix products of a small UNet run 2 to 5 times faster on
a CPU with AMX, but its fused attention's *backward* is slower in bf16 than in float32 and takes the
gain away. With attention in float32 a training step takes 0.6 of the float32 time.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint


@contextmanager
def bf16_with_float32_attention(device_type: str) -> Iterator[None]:
    """Autocast to bf16; on a CPU, compute fused attention in float32."""
    with torch.autocast(device_type, dtype=torch.bfloat16):
        if device_type == "cpu":
            with _Float32Attention():
                yield
        else:
            yield


def checkpointed(block: nn.Module, *inputs: Any) -> Any:
    """A block's output; its activations are computed again for the gradient, with like attention.

    torch's checkpoint brings autocast back for that by itself, but not a mode such as ours.
    """
    again = _Float32Attention() if _Float32Attention.entered else nullcontext()
    return checkpoint(
        block, *inputs, use_reentrant=False, context_fn=lambda: (nullcontext(), again)
    )


class _Float32Attention(TorchFunctionMode):
    """Hands `scaled_dot_product_attention` float32 copies of what it is given."""

    entered = 0
    """How many are at work; while one is asked, torch itself knows of none."""

    def __enter__(self) -> Self:
        type(self).entered += 1
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        type(self).entered -= 1
        super().__exit__(*error)  # type: ignore[no-untyped-call]

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run `func`, in float32 if it is the fused attention."""
        keywords = dict(kwargs or {})
        if func is not scaled_dot_product_attention:
            return func(*args, **keywords)
        dtype = args[0].dtype
        with torch.autocast("cpu", enabled=False):
            out = func(
                *(_float32(value) for value in args),
                **{name: _float32(value) for name, value in keywords.items()},
            )
        return out.to(dtype)


def _float32(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value
