"""Functions of a file that are named like an operator of a dialect: onnxruntime runs those, so they must compute the same."""

from collections.abc import Callable

import numpy as np
import onnx
from numpy.typing import NDArray

from bnncc.errors import ModelError
from bnncc.frontend.dialects.call import attribute
from bnncc.frontend.dialects.draft import Array, Draft
from bnncc.frontend.source.session import session
from bnncc.frontend.source.text import first_line, label


def compare(draft: Draft, node: onnx.NodeProto, standard: Callable[[onnx.ModelProto], onnx.ModelProto]) -> None:
    """Raise ModelError E0210 if the file's own function of this operator's name computes something else than it.

    standard: what rewrites a model in operators of ONNX alone.
    """
    given = [draft.constant(n) for n in node.input[1:]]
    parameters = [np.array(0.5, np.float32) if v is None else v for v in given]
    call = onnx.NodeProto()
    call.CopyFrom(node)
    call.name = ""
    names = [f"p{k}" for k in range(len(parameters))]
    del call.input[:], call.output[:]
    call.input.extend(["x", *names])
    call.output.append("y")
    key = call.SerializeToString() + b"".join(p.tobytes() + repr(p.shape).encode() for p in parameters)
    if key in draft.agreeing:
        return
    x = probe(node, parameters)
    graph = onnx.helper.make_graph(
        [call],
        "call",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, x.shape)],
        [onnx.ValueInfoProto(name="y")],
        [onnx.numpy_helper.from_array(np.asarray(p), n) for p, n in zip(parameters, names, strict=True)],
    )
    own, meant = draft.small(graph), draft.small(graph)
    del meant.functions[:]
    remedy = "correct the function, leave it out, or give it a domain of its own"
    try:
        expected = session(standard(meant)).run(None, {"x": x})[0]
        found = session(own).run(None, {"x": x})[0]
    except ModelError:
        raise
    except Exception as e:  # onnxruntime has one exception class a status code, under a private module
        raise ModelError.of(
            "E0210",
            f"onnxruntime cannot run the file's own function: {first_line(e)}",
            where=label(node),
            remedy=remedy,
        ) from None
    if not np.array_equal(found, expected, equal_nan=True):
        what = "another shape"
        if found.shape == expected.shape:
            at = tuple(np.argwhere(found != expected)[0])
            what = f"{found[at]:g} instead of {expected[at]:g} where x is {np.broadcast_to(x, found.shape)[at]:g}"
        raise ModelError.of(
            "E0210",
            f"the file's own function of this name computes something else than the operator: {what}",
            where=label(node),
            remedy=remedy,
        )
    draft.agreeing.add(key)


def probe(node: onnx.NodeProto, parameters: list[Array]) -> NDArray[np.float32]:
    """Values for x at which operators that mean different things differ: around zero, halves, and the parameters themselves."""
    halves = np.concatenate([np.arange(-9, 9.5, 0.25), [-1000, 1000, 1e-6, -1e-6, 0.1, -0.1]])
    scales = np.unique([v for p in parameters for v in np.asarray(p, np.float64).ravel()[:32]])
    near = np.concatenate([scales, scales - 1e-3, scales + 1e-3])
    points = np.concatenate([halves, near, np.outer(scales, halves).ravel()])
    points = np.unique(np.clip(points, -1e30, 1e30).astype(np.float32))
    if node.op_type == "MultiThreshold":
        layout = attribute(node, "data_layout", "") or "NC"
        shape = tuple(parameters[0].shape[0] if d == "C" else 1 for d in layout[1:])
    else:
        shape = np.broadcast_shapes(*(p.shape for p in parameters))
    return np.broadcast_to(points.reshape(-1, *[1] * len(shape)), (len(points), *shape))
