"""A model's own functions, inlined once it is clear that they end."""

from collections.abc import Iterable

import onnx
import onnx.inliner

from bnncc.frontend.source.check import invalid
from bnncc.frontend.source.messages import messages
from bnncc.frontend.source.text import first_line, printable

QUANTIZER_DOMAINS = ("qonnx.custom_op.general", "onnx.brevitas", "finn.custom_op.general")
MAX_CALLS = 100_000  # nodes that the functions of a file may become
MAX_NESTING = 50  # of functions that call functions


def inline(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without functions of its own, but for those of quantizers. Raises ModelError where they never end, or end too late."""
    if not model.functions:
        return model
    _check_calls(model)  # those of a quantizer too: onnxruntime inlines them
    functions = [(f.domain, f.name) for f in model.functions if f.domain not in QUANTIZER_DOMAINS]
    if not functions:
        return model
    try:
        inlined: onnx.ModelProto = onnx.inliner.inline_selected_functions(model, functions, exclude=False)
    except Exception as e:  # RuntimeError for a call that does not fit, DecodeError
        raise invalid(f"the functions in the file cannot be inlined: {first_line(e)}") from None
    return inlined


def _check_calls(model: onnx.ModelProto) -> None:
    """Refuse functions that call themselves, are nested too deeply or become too many nodes."""
    bodies: dict[tuple[str, str], list[onnx.NodeProto]] = {}
    for f in model.functions:
        bodies.setdefault((f.domain, f.name), []).extend(m for m in messages(f) if isinstance(m, onnx.NodeProto))
    sizes: dict[tuple[str, str], int] = {}

    def size(nodes: Iterable[onnx.NodeProto], callers: tuple[tuple[str, str], ...]) -> int:
        total = 0
        for node in nodes:
            called = (node.domain, node.op_type)
            if called in callers or len(callers) > MAX_NESTING:
                raise invalid(f"the function {printable(node.op_type)} calls itself, or others in too many levels")
            if called in bodies and called not in sizes:
                sizes[called] = size(bodies[called], (*callers, called))
            total += sizes.get(called, 1)
        return total

    total = size((m for m in messages(model.graph) if isinstance(m, onnx.NodeProto)), ())
    if total > MAX_CALLS + len(model.graph.node):
        raise invalid(f"the functions in the file become {total} nodes")
