"""A model while the nodes of its dialects are rewritten: names, constants and ranks, as far as they are asked for."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from bnncc.frontend.source.constants import tensor
from bnncc.frontend.source.session import session

MAX_PARAMETERS = 1 << 20  # elements of any tensor that is computed only to know a scale or a bit width

Array = NDArray[Any]


@dataclass
class Draft:
    """A model whose nodes are rewritten in place, in execution order: what is made before a node is standard already."""

    model: onnx.ModelProto
    names: set[str] = field(default_factory=set)
    values: dict[str, Array | None] = field(default_factory=dict)  # what is constant, as far as it was asked for
    makers: dict[str, onnx.NodeProto] = field(default_factory=dict)
    ranks: dict[str, int] = field(default_factory=dict)
    shared: dict[tuple[tuple[int, ...], bytes], str] = field(default_factory=dict)  # initializers added, by content
    agreeing: set[bytes] = field(default_factory=set)  # calls of functions that were found to compute the operator

    @property
    def opset(self) -> int:
        return max(int(o.version) for o in self.model.opset_import if o.domain in ("", "ai.onnx"))

    def name(self, base: str) -> str:
        """A name that the model does not have yet."""
        name, count = base, 1
        while name in self.names:
            count += 1
            name = f"{base}.{count}"
        self.names.add(name)
        return name

    def initializer(self, value: object) -> str:
        array = np.asarray(value, np.float32)
        key = (array.shape, array.tobytes())
        if key not in self.shared:
            base = f"constant.{array.item():g}" if array.size == 1 else "constant"
            self.shared[key] = self.name(base)
            self.model.graph.initializer.append(onnx.numpy_helper.from_array(array, self.shared[key]))
        return self.shared[key]

    def constant(self, name: str) -> Array | None:
        """The value called `name` if it does not depend on the model's input."""
        if name not in self.values:
            self.values[name] = self.evaluate(name)
        return self.values[name]

    def evaluate(self, name: str) -> Array | None:
        parameters = {t.name: t for t in self.model.graph.initializer}
        if name in parameters:
            return tensor(parameters[name])
        nodes: list[onnx.NodeProto] = []
        leaves: set[str] = set()
        waiting, seen = [name], set()
        while waiting:
            wanted = waiting.pop()
            if wanted in seen or not wanted:
                continue
            seen.add(wanted)
            if wanted in parameters:
                leaves.add(wanted)
            elif wanted in self.makers:
                node = self.makers[wanted]
                nodes += [] if node in nodes else [node]
                waiting += node.input
            else:
                return None
        order = {id(n): k for k, n in enumerate(self.makers.values())}
        nodes.sort(key=lambda n: order[id(n)])
        part = self.part(nodes, [parameters[n] for n in leaves], name)
        return self.run(part) if part is not None else None

    def part(
        self, nodes: list[onnx.NodeProto], parameters: list[onnx.TensorProto], name: str
    ) -> onnx.ModelProto | None:
        """A model of the constant `nodes` alone, unless it would compute a large tensor."""
        graph = onnx.helper.make_graph(nodes, "constant", [], [onnx.ValueInfoProto(name=name)], parameters)
        part = self.small(graph)
        inferred = with_shapes(part)
        known = {v.name: v.type.tensor_type for v in (*inferred.graph.value_info, *inferred.graph.output)}
        for n in (n for node in nodes for n in node.output if n):
            if n not in known or not known[n].HasField("shape"):
                return None
            dims = [d.dim_value if d.HasField("dim_value") else MAX_PARAMETERS + 1 for d in known[n].shape.dim]
            if int(np.prod(dims, dtype=object)) > MAX_PARAMETERS:
                return None
        return part

    def small(self, graph: onnx.GraphProto) -> onnx.ModelProto:
        """A model of another graph, with the operator sets and functions of this one."""
        given = self.model
        return onnx.helper.make_model(
            graph, opset_imports=given.opset_import, ir_version=given.ir_version, functions=given.functions
        )

    @staticmethod
    def run(part: onnx.ModelProto) -> Array | None:
        try:
            return np.asarray(session(part).run(None, {})[0])
        except Exception:  # onnxruntime has one exception class a status code, under a private module
            return None

    def know_ranks(self, model: onnx.ModelProto) -> None:
        graph = model.graph
        for v in (*graph.input, *graph.output, *graph.value_info):
            if v.type.tensor_type.HasField("shape"):
                self.ranks[v.name] = len(v.type.tensor_type.shape.dim)
        self.ranks.update((t.name, len(t.dims)) for t in graph.initializer)

    def rank(self, name: str) -> int | None:
        """The number of dimensions, as the file says or else as shape inference over what is rewritten finds."""
        if name not in self.ranks:
            part = onnx.ModelProto()
            part.CopyFrom(self.model)
            del part.graph.output[:]
            self.know_ranks(with_shapes(part))
        return self.ranks.get(name)


def with_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with the shapes that can be inferred; of one that is inconsistent, none."""
    try:
        return onnx.shape_inference.infer_shapes(model)  # data_prop takes a hundred bytes an integer
    except Exception:  # onnx raises InferenceError, RuntimeError or TypeError; load() says what is wrong
        return model
