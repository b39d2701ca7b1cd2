"""What is one of a few: the names that options take, without the libraries behind them."""

from typing import Literal

Dtype = Literal["float32", "bfloat16", "float16"]
"""Of a model's weights."""


SamplerName = Literal["ddim", "dpmpp_2m", "euler", "euler_ancestral"]


PredictionType = Literal["epsilon", "v_prediction"]
