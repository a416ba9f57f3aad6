"""Mutations of parameters: their numbers and their data."""

import struct

import numpy as np
from onnx import helper as h
from onnx import numpy_helper as nh

from tests.fuzz.mutations.draft import SMALL, Draft, Unfit, array, mutation


@mutation(11)
def numbers_of_a_parameter(d: Draft) -> None:
    t = d.pick(d.graph.initializer)
    a = array(t)
    if not a.size or a.dtype.kind not in "fiub":
        raise Unfit
    flat = a.reshape(-1)
    how = d.pick(("one", "one", "all", "scale", "scale", "shift", "negate", "repeat"))
    value = d.real() if a.dtype.kind == "f" else d.pick((*SMALL, d.integer()))
    with np.errstate(all="ignore"):
        if a.dtype.kind != "f":
            value = int(np.array(value).astype(np.int64).astype(a.dtype))
        if how == "one":
            flat[d.rng.randrange(a.size)] = value
        elif how == "all":
            flat[:] = value
        elif how == "scale":
            rows = a if a.ndim < 2 or d.chance(0.5) else a[d.rng.randrange(len(a))]
            rows *= np.asarray(value, a.dtype) if a.dtype.kind != "b" else True
        elif how == "shift" and a.dtype.kind != "b":
            flat += np.asarray(value, a.dtype)
        elif how == "negate" and a.dtype.kind == "f":
            flat[:] = -flat
        else:
            flat[:] = flat[0]
    t.CopyFrom(nh.from_array(a, t.name))


@mutation(3)
def data_of_a_parameter(d: Draft) -> None:
    t = d.pick(d.graph.initializer)
    how = d.pick(("cut", "grow", "clear", "typed", "both", "wrong", "reverse"))
    if how == "cut":
        t.raw_data = t.raw_data[: d.rng.randrange(len(t.raw_data) + 1)]
    elif how == "grow":
        t.raw_data = t.raw_data + d.rng.randbytes(d.pick((1, 4, 1000)))
    elif how == "clear":
        t.ClearField("raw_data")
    elif how == "reverse":
        t.raw_data = t.raw_data[::-1]
    else:
        n = len(t.raw_data) // 4
        numbers = struct.unpack(f"<{n}f", t.raw_data[: 4 * n])
        if how != "both":
            t.ClearField("raw_data")
        {"wrong": t.double_data}.get(how, t.float_data).extend(numbers)


@mutation(1)
def no_parameter(d: Draft) -> None:
    del d.graph.initializer[d.rng.randrange(len(d.graph.initializer))]


@mutation(2)
def parameter_is_an_input(d: Draft) -> None:
    """As in files before IR version 4; sometimes with another shape, sometimes without its data."""
    t = d.pick(d.graph.initializer)
    dims = list(t.dims) if d.chance(0.7) else [d.integer()]
    d.graph.input.append(h.make_tensor_value_info(t.name, t.data_type, dims))
    if d.chance(0.3):
        d.graph.initializer.remove(t)
    if d.chance(0.3):
        d.model.ir_version = 3
