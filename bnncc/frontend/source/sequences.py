"""Chunks of a tensor that torch's unoptimised export puts into a sequence, as the slices that they are."""

from collections.abc import Iterator

import numpy as np
import onnx
from numpy.typing import NDArray

from bnncc.frontend.source.constants import tensor

LARGEST = 1 << 31  # of the places where chunks end


def sliced(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with SequenceAt of SplitToSequence as Slice, where the file holds sizes and position."""
    nodes = model.graph.node
    chunked = {n.output[0]: n for n in nodes if n.op_type == "SplitToSequence" and len(n.input) > 1}
    if not chunked:
        return model
    held = integers(model)
    names = {name for n in nodes for name in (*n.input, *n.output)} | {t.name for t in model.graph.initializer}
    slices: dict[str, list[onnx.NodeProto]] = {}
    for node in nodes:
        if node.op_type == "SequenceAt" and node.input[0] in chunked:
            split = chunked[node.input[0]]
            ends = chunk(held.get(split.input[1]), held.get(node.input[1]))
            if ends:
                axis = next((a.i for a in split.attribute if a.name == "axis"), 0)
                slices[node.output[0]] = list(slice_nodes(node, split.input[0], (*ends, axis), names))
    gone = chunked.keys() - {o.name for o in model.graph.output}
    gone -= {name for n in nodes if not slices.keys() & set(n.output) for name in n.input}
    out = onnx.ModelProto()
    out.CopyFrom(model)
    del out.graph.node[:]
    for node in nodes:
        if not gone & set(node.output):
            out.graph.node.extend(slices.get(next(iter(node.output), ""), [node]))
    return out


def integers(model: onnx.ModelProto) -> dict[str, NDArray[np.int64]]:
    """The integers that initializers and Constant nodes hold, by name."""
    tensors = {t.name: t for t in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            tensors |= {name: a.t for name in node.output for a in node.attribute if a.name == "value"}
    kinds = (onnx.TensorProto.INT64, onnx.TensorProto.INT32)
    return {name: tensor(t).astype(np.int64) for name, t in tensors.items() if t.data_type in kinds}


def chunk(sizes: NDArray[np.int64] | None, position: NDArray[np.int64] | None) -> tuple[int, int] | None:
    """Begin and end of a chunk (all are of one size if `sizes` is a scalar); None where the two do not tell it."""
    if sizes is None or position is None or position.size != 1:
        return None
    k, each = int(position.flat[0]), [int(n) for n in sizes.flat]
    if sizes.ndim == 0:
        begin, end = k * each[0], (k + 1) * each[0]
    elif -len(each) <= k < len(each):
        end = sum(each[: k % len(each) + 1])
        begin = end - each[k]
    else:
        return None
    return (begin, end) if 0 <= begin < end < LARGEST and min(each) >= 0 else None


def slice_nodes(
    node: onnx.NodeProto, x: str, numbers: tuple[int, int, int], names: set[str]
) -> Iterator[onnx.NodeProto]:
    """A Slice in place of the node, behind its constants, which get new names."""
    made = []
    for number, part in zip(numbers, ("starts", "ends", "axes"), strict=True):
        name = f"{node.output[0]}_{part}"
        while name in names:
            name += "_"
        names.add(name)
        made.append(name)
        value = onnx.numpy_helper.from_array(np.array([number], np.int64))
        yield onnx.helper.make_node("Constant", [], [name], value=value)
    yield onnx.helper.make_node("Slice", [x, *made], [node.output[0]], name=node.name)
