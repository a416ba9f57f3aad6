"""Mutations of shapes and types."""

import numpy as np
from onnx import TensorProto as T
from onnx import helper as h
from onnx import numpy_helper as nh

from tests.fuzz.mutations.draft import NAMES, TYPES, Draft, Unfit, array, mutation


@mutation(4)
def dimension_of_a_parameter(d: Draft) -> None:
    t = d.pick(d.graph.initializer)
    how = d.pick(("set", "set", "permute", "split", "drop", "add"))
    dims = list(t.dims)
    if how == "permute" and len(dims) > 1:
        d.rng.shuffle(dims)
    elif how == "split" and dims and dims[0] % 2 == 0:
        dims[:1] = [2, dims[0] // 2]
    elif how == "drop" and dims:
        del dims[d.rng.randrange(len(dims))]
    elif how == "add":
        dims.insert(d.rng.randrange(len(dims) + 1), d.pick((1, 1, 0, 2, 10**9)))
    elif dims:
        dims[d.rng.randrange(len(dims))] = d.integer()
    t.dims[:] = dims


@mutation(4)
def dimension_of_a_value(d: Draft) -> None:
    v = d.pick([*d.graph.input, *d.graph.output, *d.graph.value_info])
    dims = v.type.tensor_type.shape.dim
    how = d.pick(("set", "set", "set", "symbol", "add", "drop", "clear"))
    if how == "clear":
        v.type.tensor_type.ClearField("shape")
    elif how == "add" or not dims:
        dims.add().dim_value = d.integer()
    elif how == "drop":
        del dims[d.rng.randrange(len(dims))]
    elif how == "symbol":
        d.pick(dims).dim_param = d.pick(("N", "batch", *NAMES))
    else:
        d.pick(dims).dim_value = d.integer()


def forget_shapes(d: Draft) -> None:
    """Leave the shapes behind the inputs to inference; the checker wants outputs to state at least their rank."""
    del d.graph.value_info[:]
    for o in d.graph.output:
        for k, dim in enumerate(o.type.tensor_type.shape.dim):
            dim.dim_param = f"{o.name}{k}"


@mutation(3)
def larger_input(d: Draft) -> None:
    """Another size of the image, which is valid as long as nothing is flattened."""
    v = d.pick(d.graph.input)
    dims = v.type.tensor_type.shape.dim
    if not dims:
        raise Unfit
    size = d.pick((1, 2, 5, 6, 7, 31, 32, 33, 300, 5000, 1 << 15, 1 << 20))
    for dim in dims[2:] if d.chance(0.7) else dims[1:]:
        dim.dim_value = size
    forget_shapes(d)


@mutation(3)
def type_of_a_value(d: Draft) -> None:
    v = d.pick([*d.graph.input, *d.graph.output, *d.graph.value_info])
    how = d.pick(("elem", "elem", "elem", "sequence", "optional", "sparse", "map", "clear"))
    old = v.type.tensor_type.elem_type
    if how == "elem":
        v.type.tensor_type.elem_type = d.pick(TYPES) if d.chance(0.8) else d.integer() & 0xFFFF
    elif how == "sequence":
        v.type.sequence_type.elem_type.tensor_type.elem_type = old
    elif how == "optional":
        v.type.optional_type.elem_type.tensor_type.elem_type = old
    elif how == "sparse":
        v.type.sparse_tensor_type.elem_type = old
    elif how == "map":
        v.type.map_type.key_type = T.INT64
        v.type.map_type.value_type.tensor_type.elem_type = old
    else:
        v.ClearField("type")


@mutation(3)
def type_of_a_parameter(d: Draft) -> None:
    """The type alone, or the data with it."""
    t = d.pick(d.graph.initializer)
    kind = d.pick(TYPES)
    if d.chance(0.5):
        t.data_type = kind if d.chance(0.8) else d.integer() & 0xFFFF
        return
    a = array(t)
    try:
        with np.errstate(all="ignore"):
            t.CopyFrom(nh.from_array(a.astype(h.tensor_dtype_to_np_dtype(kind)), t.name))
    except Exception:  # strings, and numbers that become none
        raise Unfit from None
