"""What must hold of a model before onnx and onnxruntime work on it."""

from collections import Counter

import onnx

from bnncc.errors import ModelError
from bnncc.frontend.source.limits import MAX_ELEMENTS, elements
from bnncc.frontend.source.messages import messages, texts, without_data
from bnncc.frontend.source.text import first_line, printable, shown

MIN_OPSET = 9


def check(model: onnx.ModelProto) -> None:
    if not model.graph.node:
        raise ModelError.of("E0102", "the file holds no graph", remedy="export the model again")
    inner = list(messages(model))
    if any(isinstance(text, bytes) for m in inner for text in texts(m)):
        raise invalid("the file holds text that is not UTF-8")
    if any(isinstance(m, onnx.AttributeProto) and m.ref_attr_name for m in messages(model.graph)):
        raise invalid("an attribute outside of a function refers to an attribute of a function")
    if any(isinstance(m, onnx.AttributeProto) and m.name == "saturate" and m.i not in (0, 1) for m in inner):
        raise invalid(
            "the attribute saturate is neither 0 nor 1"
        )  # for which onnxruntime's Cast leaves its output unwritten
    repeated = [name for name, count in Counter(o.name for o in model.graph.output).items() if count > 1]
    if repeated:
        raise ModelError.of(
            "E0208",
            f"the output {printable(repeated[0])} is listed twice",
            remedy="export the model with each output once",
        )
    opsets = {o.domain: o.version for o in model.opset_import}
    version = opsets.get("", opsets.get("ai.onnx", 0))
    if not MIN_OPSET <= version <= onnx.defs.onnx_opset_version():
        raise ModelError.of(
            "E0103",
            f"the model uses ONNX opset {version}; {MIN_OPSET} to {onnx.defs.onnx_opset_version()} are understood",
            remedy="export it with opset 18",
        )
    for t in (m for m in inner if isinstance(m, onnx.TensorProto)):
        if t.data_location == onnx.TensorProto.EXTERNAL:
            raise ModelError.of(
                "E0106",
                f"tensor {printable(t.name)} keeps its data in another file, and a model in memory has no folder",
                remedy="give the path of the model instead",
            )
        if any(d < 0 for d in t.dims) or elements(t.dims) > MAX_ELEMENTS:
            raise ModelError.of(
                "E0104",
                f"tensor {printable(t.name)} has absurd dimensions {shown(t.dims)}",
                remedy="export the model again",
            )
    try:
        onnx.checker.check_model(without_data(model))
    except Exception as e:  # ValidationError, and what its C++ and protobuf throw
        raise invalid(f"the model breaks the ONNX specification: {first_line(e)}") from None


def invalid(message: str) -> ModelError:
    return ModelError.of("E0102", message, remedy="export the model again")
