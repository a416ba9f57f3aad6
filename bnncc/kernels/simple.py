"""The small kernels: thresholds, pooling, sums, elementwise maps, outputs, arg-max and exits."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from bnncc.kernels.base import Kernel, always, arithmetic, cut_constants, elementwise, never, no_parts, step_constants
from bnncc.layout import pack_bits, unit
from bnncc.ops import Map, MaxPool, Threshold, Window
from bnncc.outputs import Classify, Decide, Store
from bnncc.program import Constant, Parts
from bnncc.tensor import Elem, Op


def kind(op: Op) -> str:
    """What reading one input costs by."""
    if op.x.elem is Elem.BIN:
        return "wide_bit" if unit(op.x.shape[0]).words > 1 else "bit"
    return "integer" if op.x.elem.is_integer else "real"


def threshold_work(op: Op) -> Mapping[str, float]:
    return {"call": 1, "pixel": op.y.shape[1] * op.y.shape[2], kind(op): op.y.size}


def build_threshold(op: Op, name: str) -> Parts:
    assert isinstance(op, Threshold)
    constants, params = cut_constants(op.cut, name)
    return Parts(constants, (), params)


def pool_work(op: Op) -> Mapping[str, float]:
    assert isinstance(op, MaxPool)
    binary = op.x.elem is Elem.BIN
    lanes = unit(op.y.shape[0]).words if binary else op.y.shape[0]
    read = f"{'bit' if binary else kind(op)}_read"
    wide = "wide_" if lanes > 1 else ""
    work = {"call": 1, "row": op.y.shape[1], "pixel": op.y.pixels, f"{wide}lane": op.y.pixels * lanes}
    if binary and any(op.minimum):
        work["least"] = op.y.pixels * lanes * op.taps_per_channel
    if not op.padded and op.taps_per_channel <= 9:  # written out
        return {**work, f"{wide}unrolled_{read}": op.y.pixels * lanes * op.taps_per_channel}
    rows, columns = (int(op.at_pixels(axis).sum()) for axis in (0, 1))  # of all windows
    return {**work, "padded_line": rows * op.y.shape[2] * lanes, f"padded_{read}": rows * columns * lanes}


def build_bit_pool(op: Op, name: str) -> Parts:
    assert isinstance(op, MaxPool)
    u = unit(op.x.shape[0])
    if not any(op.minimum):
        return Parts((), (), {"unit": u, "minimum": False})
    mask = Constant(f"{name}_minimum", u.c_type, pack_bits(np.array(op.minimum, bool), u))
    return Parts((mask,), (), {"unit": u, "minimum": True})


def build_value_pool(op: Op, name: str) -> Parts:
    assert isinstance(op, MaxPool)
    if not any(op.minimum):
        return Parts((), (), {"minimum": False})
    return Parts((Constant(f"{name}_minimum", "uint8_t", np.array(op.minimum, np.uint8)),), (), {"minimum": True})


def refuse_bit_pool(op: Op) -> str:
    return "" if op.x.elem is Elem.BIN else f"its input is {op.x.elem.value}, not binary"


def refuse_value_pool(op: Op) -> str:
    return "its input is binary" if op.x.elem is Elem.BIN else ""


def pool_in_place(op: Op) -> tuple[int, ...]:
    """x, if no window needs a pixel before the one that is written."""
    assert isinstance(op, MaxPool)
    rows, columns = (first_inside(op, axis) for axis in (0, 1))
    lowest = (rows[:, None] * op.x.shape[2] + columns).ravel()
    return (0,) if (lowest >= np.arange(op.y.pixels)).all() else ()


def first_inside(op: Window, axis: int) -> NDArray[np.int64]:
    """The first row (axis 0) or column (axis 1) of x in the windows of each row or column of y."""
    start = np.arange(op.y.shape[1 + axis]) * op.strides[axis] - op.pads[axis]
    skipped = np.maximum(-(start // op.dilations[axis]), 0)
    return np.asarray(start + skipped * op.dilations[axis])


def build_map(op: Op, name: str) -> Parts:
    assert isinstance(op, Map)
    constants, lines = step_constants(op.steps, name)
    return Parts(constants, (), {"lines": lines})


def build_store(op: Op, name: str) -> Parts:
    assert isinstance(op, Store)
    constants, lines = step_constants(op.output.steps, name)
    return Parts(constants, (), {"lines": lines})


STORED = ("add", "multiply", "compare", "divide")  # steps whose costs are fitted for `store` too


def store_work(op: Op) -> Mapping[str, float]:
    assert isinstance(op, Store)
    parts = arithmetic(op.output.steps, op.y.size)
    steps_of_store = {p if p in STORED else f"map.{p}": times for p, times in parts.items() if times}
    converted = op.y.size if op.result_type == "float" and op.x.elem is not Elem.F32 else 0
    image = "_image" if 1 < op.x.shape[0] < op.x.size else ""  # whose order changes
    return {"call": 1, kind(op) + image: op.y.size, "convert": converted, **steps_of_store}


def map_work(op: Op) -> Mapping[str, float]:
    assert isinstance(op, Map)
    rounded = op.y.size if op.y.elem.is_integer else 0
    work = arithmetic(op.steps, op.y.size)
    return {"call": 1, "pixel": op.y.pixels, kind(op): op.y.size, "convert": rounded, **work}


def classes(op: Op) -> Mapping[str, float]:
    return {"call": 1, "class": op.x.size}


def classify_work(op: Op) -> Mapping[str, float]:
    assert isinstance(op, Classify)
    real = op.output.steps or op.output.tensor.elem is Elem.F32
    return {"call": 1, "real_class" if real else "class": op.x.size}


KERNELS = (
    Kernel(
        "threshold",
        "compares each value with its channel's level",
        (Threshold,),
        "threshold.c.j2",
        never,
        build_threshold,
        threshold_work,
        apart=always,
    ),
    Kernel(
        "bit_pool",
        "OR (AND where the channel falls) of packed pixels",
        (MaxPool,),
        "bit_pool.c.j2",
        refuse_bit_pool,
        build_bit_pool,
        pool_work,
        pool_in_place,
        apart=always,
    ),
    Kernel(
        "value_pool",
        "maximum (minimum where the channel falls) of values",
        (MaxPool,),
        "value_pool.c.j2",
        refuse_value_pool,
        build_value_pool,
        pool_work,
        pool_in_place,
    ),
    Kernel(
        "map",
        "float32 arithmetic in the reference's order",
        (Map,),
        "map.c.j2",
        never,
        build_map,
        map_work,
        elementwise,
    ),
    Kernel("store", "an output in the order of the ONNX model", (Store,), "store.c.j2", never, build_store, store_work),
    Kernel("classify", "arg-max, ties to the first", (Classify,), "classify.c.j2", never, no_parts, classify_work),
    Kernel(
        "exit", "arg-max, and whether the entropy allows to stop here", (Decide,), "exit.c.j2", never, no_parts, classes
    ),
)
