"""What a user should know of a model that compiles: a float input that feeds a layer, a ternary Sign over real values."""

from collections.abc import Iterator

from bnncc.errors import Diagnostic
from bnncc.frontend.source.text import printable
from bnncc.graph import Graph
from bnncc.ops import Conv, Map, MaxPool, Sign
from bnncc.tensor import Elem


def warnings(graph: Graph) -> Iterator[Diagnostic]:
    """W0301 for each Sign, W0401 for the first layer of a float input."""
    scaled = {graph.input.name} if graph.input.elem is Elem.F32 else set()  # the input, rescaled or pooled
    real = set(scaled)  # sums of real values, and whatever is computed of them
    fed = None
    for op in graph.ops:
        from_real = any(t.name in real for t in op.inputs)
        if op.x.name in scaled and isinstance(op, Map | MaxPool) and op.y.elem is Elem.F32:
            scaled.add(op.y.name)
        between = isinstance(op, Map) and bool(op.others)  # tensors that may be equal
        if op.y.elem is Elem.F32 and (from_real or between or (isinstance(op, Conv) and not op.integer)):
            real.add(op.y.name)
        if isinstance(op, Conv) and op.binary and op.x.name in scaled:
            fed = fed or op
        if isinstance(op, Sign) and op.at_zero == 0 and from_real:
            yield Diagnostic(
                "W0301",
                f"Sign meets real values in {op.y.shape[0]} channels: where one is exactly zero, ONNX Sign gives 0, the C -1",
                op.where,
                "export sign as Where(x >= 0, 1, -1), or say --sign-at-zero=+1 or -1",
            )
    if fed:
        yield Diagnostic(
            "W0401",
            f"the float input {printable(graph.input.name)} feeds a layer with binary weights: its sums are float32, slower and "
            "only close",
            fed.where,
            "if the input holds integers, use --input u8 or --input i8: then the layer is exact",
        )
