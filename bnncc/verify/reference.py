"""onnxruntime's side: the values of the reference model, sample by sample."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from bnncc.errors import ModelError
from bnncc.frontend.load import first_line, session
from bnncc.scalar import apply_steps, batch_norm

Array = NDArray[Any]


def run_reference(
    model: onnx.ModelProto,
    input_name: str,
    inputs: Array,
    values: Sequence[str],
    tick: Callable[[int], None] | None = None,
) -> dict[str, Array]:
    """The named values of `model` for inputs [N, 1, ...], each stacked over the samples. Raises ModelError E0305... E0308."""
    extended = onnx.ModelProto()
    extended.CopyFrom(model)
    present = {o.name for o in model.graph.output} | {input_name}
    extended.graph.output.extend(onnx.ValueInfoProto(name=v) for v in values if v not in present)
    names = [v for v in values if v != input_name]
    try:
        s = session(extended)
        rows = []
        for x in inputs:
            rows.append(s.run(names, {input_name: x}))
            if tick:
                tick(1)
    except Exception as e:  # onnxruntime has one exception class a status code, under a private module
        raise ModelError.of(
            "E0308",
            f"onnxruntime cannot run the model: {first_line(e)}",
            remedy="check the model with onnxruntime alone",
        ) from None
    found = {n: np.stack([r[k] for r in rows]) for k, n in enumerate(names)}
    if input_name in values:
        found[input_name] = inputs
    return found


def probe_batch_norm() -> int:
    """How many of 4,096 values a one-node BatchNormalization computes otherwise than the formula that thresholds rely on."""
    r = np.random.default_rng(7)
    x = r.integers(-500, 500, (1, 64, 8, 8)).astype(np.float32)
    gamma, beta, mean = (r.normal(size=64).astype(np.float32) for _ in range(3))
    var = r.uniform(0.1, 9, 64).astype(np.float32)
    helper = onnx.helper
    node = helper.make_node("BatchNormalization", ["x", "g", "b", "m", "v"], ["y"], epsilon=1e-5)
    info = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, x.shape) for n in ("x", "y")]
    constants = [onnx.numpy_helper.from_array(v, n) for n, v in zip("gbmv", (gamma, beta, mean, var), strict=True)]
    model = helper.make_model(
        helper.make_graph([node], "probe", info[:1], info[1:], constants),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    (y,) = session(model).run(None, {"x": x})
    return int((np.asarray(y) != apply_steps(x, batch_norm(gamma, beta, mean, var, 1e-5))).sum())
