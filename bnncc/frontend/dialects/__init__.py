"""Operators of QONNX, Brevitas and FINN, rewritten to standard ONNX before anything else looks at the graph.

Stock onnxruntime cannot run such files; the reference then is the rewritten model: each operator's own meaning, as qonnx
executes it, in float32 and in the same order. A file may carry ONNX functions of these names. onnxruntime runs those, so a
function that computes something else than the operator is refused.
"""

import onnx

from bnncc.errors import Diagnostic, ModelError, raise_all
from bnncc.frontend.dialects.draft import Draft
from bnncc.frontend.dialects.functions import compare
from bnncc.frontend.dialects.quantizers import CHANNELS_LAST, rewritten
from bnncc.frontend.source.functions import QUANTIZER_DOMAINS

DOMAINS = (*QUANTIZER_DOMAINS, CHANNELS_LAST)


def declare(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with the opset imports of the dialects, which files often leave out though ONNX demands them."""
    imported = {o.domain for o in model.opset_import}
    missing = {d for d in DOMAINS if d not in imported and any(n.domain == d for n in model.graph.node)}
    if not missing:
        return model
    out = onnx.ModelProto()
    out.CopyFrom(model)
    out.opset_import.extend(onnx.helper.make_opsetid(d, 1) for d in sorted(missing))
    return out


def standard(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model in operators of ONNX alone, its parameters no longer listed as inputs. Raises ModelError with all that it refuses."""
    parameters = {t.name for t in model.graph.initializer}
    listed = any(i.name in parameters for i in model.graph.input)
    if not listed and not any(n.domain in DOMAINS for n in model.graph.node):
        return model
    out = onnx.ModelProto()
    out.CopyFrom(model)
    if listed:  # as ONNX demands before IR version 4; from then on it is a default that a caller may change
        inputs = [i for i in out.graph.input if i.name not in parameters]
        del out.graph.input[:]
        out.graph.input.extend(inputs)
        out.ir_version = max(out.ir_version, 4)
    rewrite(out)
    return out


def rewrite(model: onnx.ModelProto) -> None:
    """Rewrite the nodes of the dialects in place. Raises ModelError with all that it refuses."""
    draft = Draft(model)
    graph = model.graph
    given = list(graph.node)
    functions = {(f.domain, f.name): f for f in model.functions}
    draft.names |= {n for node in given for n in (*node.input, *node.output)}
    draft.names |= {n.name for n in given if n.domain not in DOMAINS}
    draft.names |= {v.name for v in (*graph.initializer, *graph.input)}
    del graph.node[:]
    draft.know_ranks(model)
    problems: list[Diagnostic] = []
    for node in given:
        nodes = [node]
        if node.domain in DOMAINS:
            try:
                nodes = rewritten(draft, node)
                if (node.domain, node.op_type) in functions:
                    compare(draft, node, standard)
            except ModelError as e:
                problems += e.diagnostics
        graph.node.extend(nodes)
        draft.makers.update((name, n) for n in nodes for name in n.output if name)
    raise_all(problems)
    kept = [f for f in model.functions if f.domain not in DOMAINS]
    del model.functions[:]
    model.functions.extend(kept)
    imports = [o for o in model.opset_import if o.domain not in DOMAINS]
    del model.opset_import[:]
    model.opset_import.extend(imports)
