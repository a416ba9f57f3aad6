"""A kernel is one value and one template: everything else asks it."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnncc.layout import DTYPES, pack_bits, unit
from bnncc.ops import Conv
from bnncc.program import Constant, Parts, StepLine
from bnncc.scalar import Cut, Operand, Step
from bnncc.target import Core
from bnncc.tensor import Elem, Op
from bnncc.waits import Reads, for_constants

Array = NDArray[Any]
SUMS = ("add", "sub", "rsub")  # a compiler may fuse a product with them


def elementwise(op: Op) -> tuple[int, ...]:
    """`in_place` of a kernel that reads element k of each input of y's shape, and then writes element k of y."""
    same = (op.y.elem, op.y.shape)
    return tuple(k for k, t in enumerate(op.inputs) if (t.elem, t.shape) == same and op.y.elem is not Elem.BIN)


def operands(op: Op) -> tuple[int, ...]:
    """The operands of a convolution's steps: the output stage reads each value where it writes one."""
    return tuple(k for k in elementwise(op) if k > 0) if isinstance(op, Conv) else ()


@dataclass(frozen=True)
class Kernel:
    """How an op may be computed: any of the types `ops`.

    `refuses` gives the reason why this kernel cannot do an op, "" if it can. `build(op, name)` gives its constants, scratch
    and template parameters; `work(op)` how often each of its loops runs, which the core's [cost.NAME] prices in its unit.
    `rows(op)`: how many rows the C of a convolution makes at a time, from top to bottom (`rows` of _stream.c.j2, or `rows_at_once`), so
    that another op can take them; 0 if it does not.
    `apart(op)`: whether it makes bits pixel by pixel, so that it can leave room between them for what is made by others (`s.apart`).
    `in_place(op)` are the inputs, by number, whose memory the output may have: the C reads an element before it writes there.
    `worst(op)` is a bound on `work` for any data, if `work` is only what is expected of them.
    `reads(op)` are the constants that its loops read. A kernel that `copies` takes RAM to wait less for flash; it is another
    one, `like`, but for that, and has its costs.
    """

    name: str
    title: str
    ops: tuple[type[Op], ...]
    template: str
    refuses: Callable[[Op], str]
    build: Callable[[Op, str], Parts]
    work: Callable[[Op], Mapping[str, float]]
    in_place: Callable[[Op], tuple[int, ...]] = operands
    rows: Callable[[Op], int] = lambda _: 0
    apart: Callable[[Op], bool] = lambda _: False
    worst: Callable[[Op], Mapping[str, float]] | None = None
    mve: bool = False  # only for cores with the vector extension
    dsp: bool = False  # only for cores with the DSP extension
    roomy: bool = False  # takes much scratch memory for speed: only with a RAM budget
    reads: Callable[[Op], Reads] = lambda _: Reads(0)
    copies: bool = False
    like: str = ""

    @property
    def table(self) -> str:
        """The name of its costs."""
        return self.like or self.name

    def waiting(self, op: Op, core: Core) -> float:
        """Estimated cycles more for reading constants from flash."""
        return for_constants(self.reads(op), core.flash)

    def estimate(self, op: Op, costs: Mapping[str, Mapping[str, float]]) -> float:
        """Estimated cycles at zero wait states; instructions where the core's cycles are not modelled."""
        return self.of_work(self.work(op), costs)

    def worst_estimate(self, op: Op, costs: Mapping[str, Mapping[str, float]]) -> float | None:
        """The same for the worst data; None where the data do not matter."""
        return self.of_work(self.worst(op), costs) if self.worst else None

    def bound(self, op: Op, costs: Mapping[str, Mapping[str, float]]) -> float:
        """`worst_estimate`, or the estimate, with what the layers that the costs were fitted to took at most more on top: that of
        another kernel for its parts."""
        work = (self.worst or self.work)(op)
        own = 0 if self.worst else costs[self.table]["margin"]
        margins = {part: costs[table]["margin"] if (table := part.rpartition(".")[0]) else own for part in work}
        return sum(cost(costs, self.table, part) * times * (1 + margins[part]) for part, times in work.items())

    def of_work(self, work: Mapping[str, float], costs: Mapping[str, Mapping[str, float]]) -> float:
        return sum(cost(costs, self.table, part) * times for part, times in work.items())


def cost(costs: Mapping[str, Mapping[str, float]], kernel: str, part: str) -> float:
    """What one turn of a loop takes; "map.add" is one of another kernel."""
    table, _, own = part.rpartition(".")
    return costs[table or kernel][own]


def integer_type(values: Array, least: int = 16) -> str:
    """The C type of constants: signed, of `least` bits or as many as they need."""
    most = int(np.abs(values).max(initial=0))
    return next(f"int{bits}_t" for bits in (8, 16, 32) if bits >= least and most < 1 << bits - 1)


def cut_constants(cut: Cut, name: str) -> tuple[tuple[Constant, ...], dict[str, object]]:
    """The levels of a cut, its inverted channels and its pixel classes as arrays, and what the templates ask about them."""
    if cut.levels.dtype == np.float32:
        kind = "float"
    else:
        kind = integer_type(cut.levels, 8 if cut.classes is not None else 16)  # of classes there are many
    arrays = [Constant(f"{name}_levels", kind, cut.levels.astype(DTYPES[kind]))]
    params: dict[str, object] = {
        "cut": True,
        "level_type": kind,
        "inverts": bool(cut.inverts.any()),
        "classes": cut.classes is not None,
    }
    if cut.inverts.any():
        u = unit(cut.channels)
        arrays.append(Constant(f"{name}_inverts", u.c_type, pack_bits(cut.inverts, u)))
    if cut.classes is not None:
        highest = int(cut.classes.max())
        kind = "uint8_t" if highest < 1 << 8 else "uint16_t" if highest < 1 << 16 else "int32_t"
        params["pixel_class"] = f"{name}_classes[oy * {cut.classes.shape[1]} + ox]"
        arrays.append(Constant(f"{name}_classes", kind, cut.classes.ravel().astype(DTYPES[kind])))
    return tuple(arrays), params


def step_constants(steps: Sequence[Step | Operand], name: str) -> tuple[tuple[Constant, ...], tuple[StepLine, ...]]:
    """Arrays for the steps' constants, and the steps as templates write them."""
    arrays: list[Constant] = []
    lines: list[StepLine] = []
    for k, s in enumerate(steps):
        alone = s.operation in ("mul", "prelu") and meets_sum(steps[k + 1 :])
        if isinstance(s, Operand):
            lines.append(StepLine(s.operation, other=s.index, alone=alone))
        elif s.value.size == 1:
            lines.append(StepLine(s.operation, literal=float_literal(float(s.value.flat[0])), alone=alone))
        else:
            v = np.ascontiguousarray(s.value.reshape(s.value.shape[0], -1))
            arrays.append(Constant(f"{name}_{s.operation}{k}", "float", v))
            lines.append(StepLine(s.operation, array=arrays[-1].name, shape=v.shape, alone=alone))
    return tuple(arrays), tuple(lines)


def meets_sum(steps: Sequence[Step | Operand]) -> bool:
    """Whether what goes into the steps may meet a sum as it is."""
    following = next((s.operation for s in steps if s.operation not in ("max", "min", "prelu", "abs")), "")
    return following in SUMS


def epilogue(op: Conv, name: str) -> tuple[tuple[Constant, ...], dict[str, object]]:
    """What the output stage of a convolution needs: a threshold, float32 steps, or nothing."""
    if op.cut is not None:
        constants, params = cut_constants(op.cut, name)
        return constants, {**params, "lines": (), "real": not op.integer}
    constants, lines = step_constants(op.steps, name)
    return constants, {"cut": False, "lines": lines, "real": not op.integer}


STEP_WORK = {
    **dict.fromkeys(("add", "sub", "rsub"), "add"),
    **dict.fromkeys(("mul", "prelu"), "multiply"),
    **dict.fromkeys(("max", "min", "abs"), "compare"),
    **dict.fromkeys(("round", "floor", "ceil"), "round"),
    **{"tanh": "tanh", "sigmoid": "sigmoid", "div": "divide"},
}


def arithmetic(steps: Sequence[Step | Operand], values: int) -> Counter[str]:
    """The work of float32 steps on so many values; reading another tensor's comes on top."""
    work: Counter[str] = Counter()
    for s in steps:
        work[STEP_WORK[s.operation]] += values
        work["operand"] += values * isinstance(s, Operand)
    return work


def epilogue_work(op: Conv) -> Mapping[str, float]:
    """The work of a convolution's steps, which begin with float32 made of an integer, by the costs of `map`."""
    work = arithmetic(op.steps, op.y.size) + Counter(integer=op.y.size if op.steps and op.integer else 0)
    return {f"map.{part}": times for part, times in work.items()}


def float_literal(v: float) -> str:
    """A C float constant with the same bits (nine digits identify a float32)."""
    return literal(float(np.float32(v)))


def literal(v: float) -> str:
    """`float_literal` of a number that is a float32 already."""
    if not math.isfinite(v):
        return "NAN" if math.isnan(v) else "HUGE_VALF" if v > 0 else "-HUGE_VALF"
    text = f"{v:.9g}"
    return f"{text}f" if "." in text or "e" in text else f"{text}.0f"


def always(_: Op) -> bool:
    """The `rows` or `apart` of a kernel that does so with every op."""
    return True


def no_parts(_op: Op, _name: str) -> Parts:
    return Parts()


def never(_: Op) -> str:
    """The `refuses` of a kernel that does every op of its type."""
    return ""
