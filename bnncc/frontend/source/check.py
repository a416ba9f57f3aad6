"""What must hold of a model before onnx and onnxruntime work on it."""

from collections import Counter
from graphlib import CycleError, TopologicalSorter

import onnx

from bnncc.errors import Diagnostic, ModelError, raise_all
from bnncc.frontend.source.limits import MAX_ELEMENTS, elements
from bnncc.frontend.source.messages import messages, texts, without_data
from bnncc.frontend.source.session import runs_opset
from bnncc.frontend.source.text import first_line, label, printable, shown

MIN_OPSET = 9


def check(model: onnx.ModelProto) -> None:
    """Raise ModelError for what cannot be worked on; nodes that are out of order are put in order."""
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
    if not runs_opset(version):
        raise ModelError.of(
            "E0103",
            f"the model uses ONNX opset {version}, which onnxruntime, the reference, does not run yet",
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
    g = model.graph
    made = {i.name for i in g.input} | {t.name for t in g.initializer} | {t.values.name for t in g.sparse_initializer}
    made = made.union(*(node.output for node in g.node))
    raise_all(
        Diagnostic("E0102", f"it reads {printable(name)}, which nothing makes", label(node), "export the model again")
        for node in g.node
        for name in node.input
        if name and name not in made
    )
    in_order(model)
    try:
        bare = without_data(model)
        for o in bare.graph.output:
            if o.type.HasField("tensor_type"):  # tf2onnx leaves the shape out where TensorFlow does not know it
                o.type.tensor_type.shape.SetInParent()
        onnx.checker.check_model(bare)
    except Exception as e:  # ValidationError, and what its C++ and protobuf throw
        raise invalid(f"the model breaks the ONNX specification: {first_line(e)}") from None


def in_order(model: onnx.ModelProto) -> None:
    """Put nodes after what they read, which ONNX demands and onnxruntime does not. Raises ModelError E0102."""
    nodes = list(model.graph.node)
    makers = {name: k for k, node in enumerate(nodes) for name in node.output if name}
    before = {k: [makers[name] for name in node.input if name in makers] for k, node in enumerate(nodes)}
    if all(m < k for k, makers_of in before.items() for m in makers_of):
        return
    try:
        order = list(TopologicalSorter(before).static_order())
    except CycleError as e:
        raise ModelError.of(
            "E0102",
            "it reads what is computed from its own output",
            where=label(nodes[e.args[1][0]]),
            remedy="export the model again",
        ) from None
    del model.graph.node[:]
    model.graph.node.extend(nodes[k] for k in order)


def invalid(message: str) -> ModelError:
    return ModelError.of("E0102", message, remedy="export the model again")
