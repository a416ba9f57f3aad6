"""onnxruntime as the contract has it."""

from functools import cache

import onnx
import onnxruntime as ort


def session(model: onnx.ModelProto) -> ort.InferenceSession:
    """onnxruntime as the contract has it: no graph optimisation, one thread, CPU."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


@cache
def runs_opset(version: int) -> bool:
    """Whether onnxruntime takes models of this opset: onnx describes the next ones before it does."""
    helper = onnx.helper
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "probe", ends[:1], ends[1:])
    try:
        session(helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)], ir_version=8))
    except Exception:  # onnxruntime has one exception class a status code, under a private module
        return False
    return True
