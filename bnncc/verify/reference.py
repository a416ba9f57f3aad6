"""onnxruntime's side: the values of the reference model, sample by sample."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from bnncc.errors import ModelError
from bnncc.frontend.source.session import session
from bnncc.frontend.source.text import first_line
from bnncc.scalar import apply_steps, batch_norm

Array = NDArray[Any]


class Reference:
    """onnxruntime on `model`, to be asked for the named values. Raises ModelError E0308."""

    def __init__(self, model: onnx.ModelProto, input_name: str, values: Sequence[str]) -> None:
        extended = onnx.ModelProto()
        extended.CopyFrom(model)
        present = {o.name for o in model.graph.output} | {input_name}
        extended.graph.output.extend(onnx.ValueInfoProto(name=v) for v in values if v not in present)
        self.input_name, self.values = input_name, list(values)
        try:
            self.session = session(extended)
        except Exception as e:  # onnxruntime has one exception class a status code, under a private module
            raise self.refused(e) from None

    def run(self, inputs: Array, tick: Callable[[int], None] | None = None) -> dict[str, Array]:
        """The values for inputs [N, *onnx shape], sample by sample, each stacked over the samples."""
        names = [v for v in self.values if v != self.input_name]
        rows = []
        for x in inputs:
            try:
                rows.append(self.session.run(names, {self.input_name: x.copy()}))  # aligned: some sums depend on it
            except Exception as e:
                raise self.refused(e) from None
            if tick:
                tick(1)
        found = {n: np.stack([r[k] for r in rows]) for k, n in enumerate(names)}
        if self.input_name in self.values:
            found[self.input_name] = inputs
        return found

    def refused(self, e: Exception) -> ModelError:
        return ModelError.of(
            "E0308",
            f"onnxruntime cannot run the model: {first_line(e)}",
            remedy="check the model with onnxruntime alone",
        )


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
