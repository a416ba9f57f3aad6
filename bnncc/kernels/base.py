"""A kernel is one value and one template: everything else asks it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnncc.graph import Op
from bnncc.layout import DTYPES, pack_bits, unit
from bnncc.program import Constant, Parts
from bnncc.scalar import Cut, Step

Array = NDArray[Any]


@dataclass(frozen=True)
class Kernel:
    """How one op may be computed.

    `refuses` gives the reason why this kernel cannot do an op, "" if it can. `build(op, name)` gives its constants, scratch
    and template parameters; `work(op)` how often each of its loops runs, which the core's [cost.NAME] turns into cycles.
    """

    name: str
    title: str
    op: type[Op]
    template: str
    refuses: Callable[[Op], str]
    build: Callable[[Op, str], Parts]
    work: Callable[[Op], Mapping[str, float]]

    def cycles(self, op: Op, costs: Mapping[str, Mapping[str, float]]) -> float:
        """Estimated cycles at zero wait states."""
        table = costs[self.name]
        return sum(table[part] * times for part, times in self.work(op).items())


def cut_constants(cut: Cut, name: str) -> tuple[tuple[Constant, ...], dict[str, object]]:
    """The levels of a cut, its inverted channels and its pixel classes as arrays, and what the templates ask about them."""
    if cut.levels.dtype == np.float32:
        kind = "float"
    else:
        kind = "int16_t" if np.abs(cut.levels).max() < 1 << 15 else "int32_t"
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
        wide = int(cut.classes.max()) > 255
        arrays.append(
            Constant(
                f"{name}_classes",
                "uint16_t" if wide else "uint8_t",
                cut.classes.ravel().astype(np.uint16 if wide else np.uint8),
            )
        )
        params["class_type"] = arrays[-1].c_type
    return tuple(arrays), params


def step_constants(steps: tuple[Step, ...], name: str) -> tuple[tuple[Constant, ...], list[dict[str, object]]]:
    """Arrays for the steps' constants; and for each step its operation, its C operand and whether its result must be rounded alone."""
    arrays: list[Constant] = []
    lines: list[dict[str, object]] = []
    for k, s in enumerate(steps):
        v = s.value
        if v.size == 1:
            operand = float_literal(float(v.flat[0]))
        else:
            array = Constant(f"{name}_{s.operation}{k}", "float", np.ascontiguousarray(v.reshape(v.shape[0], -1)))
            arrays.append(array)
            pixels = v.shape[1] * v.shape[2]
            operand = f"{array.name}[{'c' if pixels == 1 else f'c * {pixels} + p' if v.shape[0] > 1 else 'p'}]"
        fusible = s.operation == "mul" and k + 1 < len(steps) and steps[k + 1].operation in ("add", "sub", "rsub")
        lines.append({"operation": s.operation, "operand": operand, "alone": fusible})
    return tuple(arrays), lines


def float_literal(v: float) -> str:
    """A C float constant with the same bits (nine digits identify a float32)."""
    text = f"{np.float32(v):.9g}"
    return (text if any(c in text for c in ".en") else text + ".0") + "f"


def never(_: Op) -> str:
    """The `refuses` of a kernel that does every op of its type."""
    return ""
