"""Graph -> Program: an order of execution, a kernel for each op, the memory plan."""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from bnncc.graph import Graph, Output, needed
from bnncc.kernels import KERNELS
from bnncc.kernels.base import Kernel
from bnncc.layout import c_type, elements, unit
from bnncc.memory import load
from bnncc.ops import Concat, Conv, MaxPool, NormSign, Streamed
from bnncc.outputs import Classify, Decide, Store, result_tensor
from bnncc.plan import lower_bound, plan
from bnncc.program import Buffer, Choice, Cost, Program, Step, tensor_buffer
from bnncc.target import Core
from bnncc.tensor import Elem, Op, Tensor
from bnncc.waits import for_code, that_fit


def schedule(graph: Graph, *, depth_first: bool = False) -> list[Op]:
    """The ops and the outputs in order. With exits, nothing that exit k does not need comes before its decision.

    The order is the graph's, or `depth_first`: each op as late as possible, the inputs of one after the other.
    """
    done: set[str] = set()
    order: list[Op] = []

    def run(tensor: Tensor) -> None:
        for op in walk(graph, tensor) if depth_first else needed(graph, [tensor]):
            if op.y.name not in done:
                done.add(op.y.name)
                order.append(op)

    if graph.exits:
        for k, index in enumerate(graph.exits.outputs):
            output = graph.outputs[index]
            run(output.tensor)
            order.append(store(output, as_float=True))
            order.append(decide(output, k, last=k == len(graph.exits.outputs) - 1))
        return order
    for output in graph.outputs:
        run(output.tensor)
        order.append(store(output))
    if len(graph.outputs) == 1 and graph.outputs[0].tensor.elem is not Elem.BIN and is_vector(graph.outputs[0]):
        out = graph.outputs[0]
        place = result_tensor("result:class", 1)
        order.append(
            Classify(x=result_tensor(f"result:{out.name}", out.tensor.size), y=place, output=out, origin=out.origin)
        )
    return order


def walk(graph: Graph, tensor: Tensor) -> Iterator[Op]:
    """The ops that `tensor` depends on, depth first."""
    seen: set[str] = set()
    stack = [(tensor, False)]
    while stack:
        t, ready = stack.pop()
        op = graph.producer(t)
        if op and ready:
            yield op
        elif op and t.name not in seen:
            seen.add(t.name)
            stack += [(t, True), *((i, False) for i in reversed(op.inputs))]


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


ROOMY = {k.name: k.roomy for k in KERNELS}
FOR_SPEED = {k.name: k.copies or k.roomy for k in KERNELS}
NOT_ASKED = "it takes much RAM, for which it needs a RAM budget"
WORTH = 0.01  # of the run's time: what a step's code must save in RAM


@dataclass(frozen=True)
class Ram:
    """Bytes: the `most` that the arena should have, and up to which it may grow by kernels that take RAM `for_speed`: if that
    is not known, twice what the program takes without them. Those that take much are left out unless the user has `asked` for
    `most`, and while all constants are more than `constants`: they take more flash too."""

    most: int | None = None
    for_speed: int | None = None
    constants: int | None = None
    asked: bool = True


NO_LIMIT = Ram()
Excluded = Mapping[tuple[str, str], str]  # why a step, by its output, is not to be done by a kernel


def lacking(kernel: Kernel, core: Core) -> str:
    """What the core lacks for the kernel, "" if nothing."""
    if kernel.mve and not core.mve:
        return f"{core.name} has no vector extension"
    return f"{core.name} has no DSP extension" if kernel.dsp and not core.dsp else ""


def choose(op: Op, core: Core, forced: str | None, excluded: Excluded) -> tuple[Kernel, tuple[Choice, ...]]:
    """The cheapest kernel that does not refuse the op, and what was considered."""
    considered: list[Choice] = []
    for k in KERNELS:
        if type(op) in k.ops and (core.flash or not k.copies or k.name == forced):
            refusal = excluded.get((op.y.name, k.name)) or lacking(k, core) or k.refuses(op)
            if refusal:
                considered.append(Choice(k.name, None, refusal))
            else:
                considered.append(Choice(k.name, k.estimate(op, core.cost), waiting=k.waiting(op, core)))
    able = [c for c in considered if c.estimate is not None]
    best = next((c for c in able if c.kernel == forced), None)
    best = best or min(able, key=lambda c: (c.estimate or 0.0) + c.waiting)
    return next(k for k in KERNELS if k.name == best.kernel), tuple(considered)


def select(
    op: Op, core: Core, name: str, index: int, forced: str | None, excluded: Excluded = MappingProxyType({})
) -> Step:
    """Step `index`, by the kernel that `choose` takes."""
    return step_of(op, core, f"{name}_step{index}", index, forced, excluded)


def step_of(op: Op, core: Core, function: str, index: int, forced: str | None, excluded: Excluded) -> Step:
    if isinstance(op, Streamed):
        conv = step_of(op.conv, core, function, index, forced, excluded)
        then = step_of(op.on_row, core, f"{function}_row", index, None, excluded)
        rows = ("rows", c_type(op.then.x), op.ring * elements(op.then.x) // op.then.x.shape[1])
        parts = replace(
            conv.parts,
            constants=conv.parts.constants + then.parts.constants,
            scratch=(*conv.parts.scratch, rows),
        )
        times = op.then.y.pixels // op.on_row.y.pixels
        of_then, worst = then.cost.estimate * times, conv.cost.worst
        cost = replace(
            conv.cost,
            estimate=conv.cost.estimate + of_then,
            worst=None if worst is None else worst + of_then,
            bound=conv.cost.bound + then.cost.bound * times,
            waiting=conv.cost.waiting + then.cost.waiting * times,
        )
        return replace(conv, op=op, parts=parts, cost=cost, then=then, reason=real_reason(op))
    kernel, considered = choose(op, core, forced, excluded)
    estimate = kernel.estimate(op, core.cost)
    return Step(
        index,
        op,
        kernel.name,
        kernel.template,
        kernel.build(op, function),
        Cost(
            op.macs if isinstance(op, Conv) else 0,
            estimate,
            core.unit,
            kernel.worst_estimate(op, core.cost),
            kernel.bound(op, core.cost),
            kernel.waiting(op, core) + for_code(estimate, core),
        ),
        considered,
        reason=real_reason(op),
    )


def stream(graph: Graph, core: Core, forced: str | None, excluded: Excluded) -> Graph:
    """A convolution and the op that alone reads it become one step, where fewer bytes are then in use at a time."""
    made: dict[str, Op] = {}
    for op in graph.ops:
        conv = made.get(op.x.name)
        if isinstance(op, MaxPool | NormSign) and isinstance(conv, Conv) and graph.sole_user(op.x) is op:
            at_once = int(choose(conv, core, forced, excluded)[0].rows(conv)) if takes_rows(op) else 0
            both = Streamed.of(conv, op, at_once)
            whole, out = (tensor_buffer(t, 0, 0).bytes for t in (op.x, op.y))
            if at_once and whole * both.ring // op.x.shape[1] + out < whole:
                del made[op.x.name]
                made[op.y.name] = both
                continue
        made[op.y.name] = op
    return graph.with_ops(made.values())


def takes_rows(op: Op) -> bool:
    """Whether the op can be done row by row, with the same constants for each."""
    return isinstance(op, MaxPool) or (isinstance(op, NormSign) and not op.features and op.rho.shape[1:] == (1, 1))


def real_reason(op: Op) -> str:
    """Why a layer works on real values, "" if it does not (the arithmetic of outputs and exits is no layer)."""
    if isinstance(op, Store | Decide | Classify):
        return ""
    real = [t for t in op.inputs if t.elem is Elem.F32]
    if real:
        return f"its input {real[0].twin or real[0].name} is real"
    conv = op.conv if isinstance(op, Streamed) else op
    if isinstance(conv, Conv) and not conv.binary:
        return "its weights are real"
    return "its float32 result feeds another layer" if op.y.elem is Elem.F32 else ""


Within = Mapping[str, tuple[Tensor, int]]  # the tensors, by name, that lie in another, from which of its words on


def parts_in_place(graph: Graph, kernels: Mapping[str, Kernel]) -> Within:
    """The bits that are made where a concatenation has them, so that it takes no step: all its parts, or none.

    They are whole words, nothing else reads them, and their kernels (by the tensor made) leave room for the others.
    """
    found: dict[str, tuple[Tensor, int]] = {}
    for op in graph.ops:
        begins = [sum(t.shape[0] for t in op.inputs[:k]) for k in range(len(op.inputs))]
        if isinstance(op, Concat) and op.y.elem is Elem.BIN and all(unit(t.shape[0]).bits == 32 for t in op.inputs):
            alone = all(graph.users(t) == [op] and not graph.is_output(t) for t in op.inputs)
            made = all(
                (p := graph.producer(t)) and p.y.name in kernels and kernels[p.y.name].apart(p) for t in op.inputs
            )
            if alone and made and len({t.name for t in op.inputs}) == len(begins) and not any(b % 32 for b in begins):
                found |= {t.name: (op.y, b // 32) for t, b in zip(op.inputs, begins, strict=True)}
    return found


def tensor_buffers(
    ops: Sequence[Op], in_place: Mapping[str, Collection[int]], source: Tensor, within: Within = MappingProxyType({})
) -> list[Buffer]:
    """The tensors of the arena and the steps that they live through, if the ops run in this order.

    `in_place` are the inputs, by number, that the op which makes a tensor may overwrite. It does so where nothing
    reads them in another way or later. Tensors `within` another are made there; it lives from the first of them on.
    """
    holders: set[str] = set()
    last = {t.name: k for k, op in enumerate(ops) for t in op.inputs}
    buffers = []
    for k, op in enumerate(ops):
        if isinstance(op, Store | Decide | Classify):
            continue
        if op.y.name in within:
            holder = within[op.y.name][0]
            if holder.name not in holders:
                holders.add(holder.name)
                buffers.append(tensor_buffer(holder, k, last[holder.name]))
            continue
        free = in_place[op.y.name]
        kept = {t.name for j, t in enumerate(op.inputs) if j not in free or last[t.name] > k} | {source.name}
        over = dict.fromkeys(op.inputs[j].name for j in free if op.inputs[j].name not in kept)
        buffers.append(replace(tensor_buffer(op.y, k, last.get(op.y.name, k)), over=tuple(over)))
    return buffers


def lower(
    graph: Graph, core: Core, name: str, *, nhwc: bool = False, forced: str | None = None, ram: Ram = NO_LIMIT
) -> Program:
    """The Program of a graph for a core. `forced` names a kernel to take wherever it does not refuse (for tests).

    While the arena exceeds `ram`, the step that holds most takes its next-best kernel with less scratch; the arena is
    larger nevertheless where there is none.
    """
    if core.flash and ram.for_speed is None:
        ram = replace(
            ram, for_speed=2 * lower(graph, replace(core, flash=None), name, forced=forced, ram=ram).arena_bytes
        )
    excluded = {
        (op.y.name, k.name): NOT_ASKED
        for op in graph.ops
        for k in KERNELS
        if k.roomy and not (ram.most and ram.asked) and k.name != forced and type(op) in k.ops
    }
    while True:
        program = lower_with(graph, core, name, nhwc, forced, excluded)
        large = sorted(program.steps, key=lambda s: load(program, s), reverse=True)
        step = next((s for s in large if beyond(program, s, ram) and smaller(s)), None)
        reason = "with {0.parts.scratch_bytes} bytes of scratch it exceeds the RAM budget"
        if step is None and ram.constants is not None and program.flash_bytes > ram.constants:
            step = max((s for s in large if ROOMY[s.kernel]), key=lambda s: s.flash_bytes, default=None)
            reason = "with {0.flash_bytes} bytes of constants the network fills too much of the flash"
        if step is None:
            return code_in_ram(program, core, ram)
        op = step.op.conv if isinstance(step.op, Streamed) else step.op
        excluded[op.y.name, step.kernel] = reason.format(step)


def beyond(program: Program, step: Step, ram: Ram) -> bool:
    """Whether the step holds more than it may."""
    limits = [ram.most, ram.for_speed if FOR_SPEED[step.kernel] else None]
    return any(most is not None and load(program, step) > most for most in limits)


def code_in_ram(program: Program, core: Core, ram: Ram) -> Program:
    """The program with the code of those steps in RAM that would wait for flash longest, as far as there is room."""
    if core.flash is None:
        return program
    total = sum(s.cost.estimate + s.cost.waiting for s in program.steps)
    gains = {s.index: for_code(s.cost.estimate, core) for s in program.steps}
    hot = [k for k in sorted(gains, key=lambda k: -gains[k]) if gains[k] > WORTH * total]
    if ram.most is not None:
        hot = [hot[k] for k in that_fit([program.steps[k].template for k in hot], ram.most - program.arena_bytes)]
    steps = (
        replace(s, in_ram=True, cost=replace(s.cost, waiting=s.cost.waiting - gains[s.index])) if s.index in hot else s
        for s in program.steps
    )
    return replace(program, steps=tuple(steps))


def smaller(step: Step) -> bool:
    """Whether another kernel can do the step with less scratch."""
    op = step.op.conv if isinstance(step.op, Streamed) else step.op
    others = [k for k in KERNELS for c in step.considered if c.kernel == k.name != step.kernel and not c.refusal]
    return any(k.build(op, "other").scratch_bytes < step.parts.scratch_bytes for k in others)


def lower_with(graph: Graph, core: Core, name: str, nhwc: bool, forced: str | None, excluded: Excluded) -> Program:
    fused = stream(graph, core, forced, excluded)
    single = [op for op in fused.ops if not isinstance(op, Streamed)]
    kernels = {op.y.name: choose(op, core, forced, excluded)[0] for op in single}
    in_place = defaultdict(tuple, {op.y.name: kernels[op.y.name].in_place(op) for op in single})
    within = parts_in_place(fused, kernels)
    made = {holder.name for holder, _ in within.values()}  # by their parts
    orders = [[op for op in schedule(fused, depth_first=first) if op.y.name not in made] for first in (False, True)]
    ops = min(orders, key=lambda ops: lower_bound(tensor_buffers(ops, in_place, graph.input, within)))
    steps = tuple(select(op, core, name, k, forced, excluded) for k, op in enumerate(ops))
    buffers = tensor_buffers(ops, in_place, graph.input, within)
    for s in steps:
        buffers += [Buffer(f"step{s.index}:{part}", kind, n, s.index, s.index) for part, kind, n in s.parts.scratch]
    placed, arena, bound = plan(buffers)
    return Program(name, graph, steps, placed, arena, bound, nhwc, within)
