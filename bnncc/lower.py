"""Graph -> Program: an order of execution, a kernel for each op, the memory plan."""

from collections.abc import Iterable

from bnncc.graph import Graph, Output, needed
from bnncc.kernels import KERNELS
from bnncc.ops import Conv
from bnncc.outputs import Classify, Decide, Store, result_tensor
from bnncc.plan import plan
from bnncc.program import Buffer, Choice, Cost, Parts, Program, Step, tensor_buffer
from bnncc.target import Core
from bnncc.tensor import Elem, Op


def schedule(graph: Graph) -> list[Op]:
    """The ops and the outputs in order. With exits, nothing that exit k does not need comes before its decision."""
    done: set[str] = set()
    order: list[Op] = []

    def run(ops: Iterable[Op]) -> None:
        for op in ops:
            if op.y.name not in done:
                done.add(op.y.name)
                order.append(op)

    if graph.exits:
        for k, index in enumerate(graph.exits.outputs):
            output = graph.outputs[index]
            run(needed(graph, [output.tensor]))
            order.append(store(output, as_float=True))
            order.append(decide(output, k, last=k == len(graph.exits.outputs) - 1))
        return order
    for output in graph.outputs:
        run(needed(graph, [output.tensor]))
        order.append(store(output))
    if len(graph.outputs) == 1 and graph.outputs[0].tensor.elem is not Elem.BIN and is_vector(graph.outputs[0]):
        out = graph.outputs[0]
        place = result_tensor("result:class", 1)
        order.append(
            Classify(x=result_tensor(f"result:{out.name}", out.tensor.size), y=place, output=out, origin=out.origin)
        )
    return order


def is_vector(output: Output) -> bool:
    return len(output.shape) == 2 and output.shape[1] > 1


def store(output: Output, *, as_float: bool = False) -> Store:
    place = result_tensor(f"result:{output.name}", output.tensor.size)
    return Store(x=output.tensor, y=place, output=output, as_float=as_float, origin=output.origin or (output.name,))


def decide(output: Output, k: int, *, last: bool) -> Decide:
    size = output.tensor.size
    return Decide(
        x=result_tensor(f"result:{output.name}", size),
        y=result_tensor(f"result:exit{k}", 1),
        output=output,
        exit=k,
        last=last,
        origin=(output.name,),
    )


def select(op: Op, core: Core, name: str, index: int, forced: str | None) -> Step:
    """The cheapest kernel that does not refuse the op, and what was considered."""
    considered: list[Choice] = []
    for k in KERNELS:
        if type(op) not in k.ops:
            continue
        refusal = k.refuses(op)
        considered.append(Choice(k.name, None if refusal else k.cycles(op, core.cost), refusal))
    able = [c for c in considered if c.cycles is not None]
    best = next((c for c in able if c.kernel == forced), None) or min(able, key=lambda c: c.cycles or 0.0)
    kernel = next(k for k in KERNELS if k.name == best.kernel)
    macs = op.macs if isinstance(op, Conv) else 0
    parts: Parts = kernel.build(op, f"{name}_step{index}")
    return Step(
        index,
        op,
        kernel.name,
        kernel.template,
        parts,
        Cost(macs, best.cycles or 0.0),
        tuple(considered),
        real_reason(op),
    )


def real_reason(op: Op) -> str:
    """Why a layer works on real values, "" if it does not (the arithmetic of outputs and exits is no layer)."""
    if isinstance(op, Store | Decide | Classify):
        return ""
    real = [t for t in op.inputs if t.elem is Elem.F32]
    if real:
        return f"its input {real[0].twin or real[0].name} is real"
    if isinstance(op, Conv) and not op.binary:
        return "its weights are real"
    return "its float32 result feeds another layer" if op.y.elem is Elem.F32 else ""


def lower(graph: Graph, core: Core, name: str, *, nhwc: bool = False, forced: str | None = None) -> Program:
    """The Program of a graph for a core. `forced` names a kernel to take wherever it does not refuse (for tests)."""
    ops = schedule(graph)
    steps = tuple(select(op, core, name, k, forced) for k, op in enumerate(ops))
    last_use = {t.name: k for k, op in enumerate(ops) for t in op.inputs}
    buffers: list[Buffer] = []
    for k, (op, step) in enumerate(zip(ops, steps, strict=True)):
        if not isinstance(op, Store | Decide | Classify):
            buffers.append(tensor_buffer(op.y, k, last_use.get(op.y.name, k)))
        buffers += [Buffer(f"step{k}:{part}", kind, count, k, k) for part, kind, count in step.parts.scratch]
    placed, arena, bound = plan(buffers)
    return Program(name, graph, steps, placed, arena, bound, nhwc)
