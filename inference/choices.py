"""What is one of a few: the names that options take, without the libraries behind them."""

from typing import Final, Literal

Dtype = Literal["float32", "bfloat16", "float16", "fp32", "bf16", "fp16"]
"""Of a model's weights, by torch's name or by the short one."""

_SHORT: Final = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


SamplerName = Literal["ddim", "dpmpp_2m", "euler", "euler_ancestral"]


PredictionType = Literal["epsilon", "v_prediction"]


def full_name(dtype: Dtype) -> str:
    """Torch's name of a dtype."""
    return _SHORT.get(dtype, dtype)
