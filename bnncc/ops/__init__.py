"""What can be computed: frozen dataclasses whose `evaluate` is their meaning in numpy, over a batch [N, C, H, W].

Kernels, passes and the numpy reference are all tested against it. Integers are evaluated in int64, real values in float32.
"""

from bnncc.ops.moves import Concat, Pad, Reshape, Slice, Transpose, Upsample
from bnncc.ops.pointwise import Combine, Map, Normalize, NormSign, Sign, Softmax, Threshold
from bnncc.ops.streamed import Streamed
from bnncc.ops.windows import Conv, MaxPool, SumPool, Window, windows

MOVES = (Concat, Pad, Reshape, Slice, Transpose, Upsample)

__all__ = [
    "MOVES",
    "Combine",
    "Concat",
    "Conv",
    "Map",
    "MaxPool",
    "NormSign",
    "Normalize",
    "Pad",
    "Reshape",
    "Sign",
    "Slice",
    "Softmax",
    "Streamed",
    "SumPool",
    "Threshold",
    "Transpose",
    "Upsample",
    "Window",
    "windows",
]
