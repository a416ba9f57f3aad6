"""Estimated cycles from exact counts: a core's timing rules (targets/cores/*.toml, [timing]) over what was executed.

Every memory access is taken to need zero wait states. Loads and stores of an IT block are known to be executed or
skipped; what else stands there is taken to be executed, which differs for multi-cycle arithmetic alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from bnncc.sim.count import Counts, Node
from bnncc.sim.decode import Insn, Kind, executed
from bnncc.target import Core, Flash, cores

_HISTORY = 4  # instructions before a block that its own timing can depend on


@dataclass(frozen=True)
class Timing:
    """A core's timing in cycles: the [timing] table, whose comments give the manuals."""

    name: str
    load: int  # one register
    load_after_load: int  # directly after a load on which its address does not depend
    memory_switch: int  # more where such a load goes to another memory (flash, SRAM) than the one before
    store: int  # one register, immediate offset
    store_register: int  # one register, register offset
    store_after_load: int  # immediate offset, directly after a load on which its address does not depend
    multiple: int  # ldm, stm, push, pop, ldrd, vldm, ...: this, and 1 for each word
    it: int
    refill: int  # more for a taken branch
    refill_load: int  # more for pop {pc} and ldr pc
    link: int  # more for bl
    address_after_alu: int  # more when the instruction directly before computed the address
    load_after_store: int  # more when the instruction directly before stored one register
    wide_fetch: int  # more for the third of three 32-bit instructions at addresses 2 mod 4 after a multi-cycle one
    float_after_float: int  # more when it reads what the FPU arithmetic directly before computed
    cycles: Mapping[str, int]  # of the instructions, by name, that take neither 1 nor what is given above

    @classmethod
    def of(cls, core: Core) -> "Timing | None":
        """The timing of `core`, None if it is not modelled; `like` in its table names the core whose rules it borrows."""
        table = core.timing
        if not table:
            return None
        if "like" in table:
            table = {**cores()[table["like"]].timing, **table}
        return cls(**{field.name: table[field.name] for field in fields(cls)})

    @property
    def statement(self) -> str:
        """How to label every figure that comes from here."""
        return f"estimated, zero wait states ({self.name})"

    def waiting(self, flash: Flash) -> str:
        """How to label the figures with the cycles spent waiting for `flash`."""
        return f"estimated, {flash} ({self.name})"

    def straight(self, insns: tuple[Insn, ...], start: int, jumped: bool) -> list[int]:
        """The cycles of each of `insns[start:]`, no branch taken, after `insns[:start]`, the last of these jumping or not."""
        spent = [self._alone(insn) + self._after(insn, insns[i - 1] if i else None) for i, insn in enumerate(insns)]
        if jumped and start:
            spent[start - 1] += self.taken(insns[start - 1])
        stalls = [
            self.wide_fetch if i >= 3 and spent[i - 3] > 1 and _wide_row(insns[i - 2 : i + 1]) else 0
            for i in range(len(insns))
        ]
        return [cycles + stall for cycles, stall in zip(spent, stalls, strict=True)][start:]

    def taken(self, insn: Insn) -> int:
        """What the branch `insn` costs more when it is taken."""
        if insn.to_pc:
            return self.refill_load
        return self.refill + (self.link if insn.name == "bl" else 0)

    def _alone(self, insn: Insn) -> int:
        """The cycles of one instruction, no branch taken, whatever stands before it."""
        match insn.kind:
            case _ if insn.name in self.cycles:
                return self.cycles[insn.name]
            case Kind.LOAD:
                return self.load
            case Kind.STORE:
                return self.store
            case Kind.STORE_REGISTER:
                return self.store_register
            case Kind.LOAD_MULTIPLE | Kind.STORE_MULTIPLE:
                return self.multiple + insn.words
            case Kind.FLOAT if insn.words:
                return self.multiple + insn.words
            case Kind.IT:
                return self.it
            case _:
                return 1

    def _after(self, insn: Insn, before: Insn | None) -> int:
        """How much more or less `insn` takes because `before` stands directly before it."""
        if before is None or before.to_pc:
            return 0
        if before.float_result & insn.float_reads:
            return self.float_after_float
        depends = bool(insn.address_registers & before.writes)
        if before.kind is Kind.ALU and depends:
            return self.address_after_alu
        if before.kind is Kind.LOAD and not depends:
            if insn.kind is Kind.LOAD:
                switches = bool(before.accessed and insn.accessed) and not before.accessed & insn.accessed
                return self.load_after_load - self.load + (self.memory_switch if switches else 0)
            if insn.kind is Kind.STORE:
                return self.store_after_load - self.store
        stored = before.kind in (Kind.STORE, Kind.STORE_REGISTER)
        return self.load_after_store if stored and insn.kind in (Kind.LOAD, Kind.LOAD_MULTIPLE) else 0

    def per_run(self, counts: Counts, regions: int) -> NDArray[np.int64]:
        """[runs, regions]: estimated cycles. A branch's cost falls to the region that the branch belongs to."""
        pairs, index = np.unique(counts.edges[["from", "to"]], return_inverse=True)
        nodes = [(counts.nodes[pair["from"]], counts.nodes[pair["to"]]) for pair in pairs]
        entering = np.array([sum(self.entering(a, b)) for a, b in nodes], np.int64)
        leaving = np.array([self.leaving(a, b) for a, b in nodes], np.int64)
        times = counts.edges["count"].astype(np.int64)
        return counts.per_run(times * entering[index], "to", regions) + counts.per_run(
            times * leaving[index], "from", regions
        )

    def entering(self, before: Node, node: Node) -> list[int]:
        """The cycles of each instruction of `node` after `before`, without what its last branch costs when taken."""
        history = executed(before)[-_HISTORY:]
        return self.straight(history + executed(node), len(history), jumps(before, node))

    def leaving(self, node: Node, after: Node) -> int:
        """What leaving `node` costs when that means a jump."""
        return self.taken(executed(node)[-1]) if node.code and jumps(node, after) else 0


def jumps(node: Node, after: Node) -> bool:
    """Whether the branch at the end of `node` is taken on the way to `after`."""
    return after.address != node.end


def _wide_row(insns: tuple[Insn, ...]) -> bool:
    """Whether these are three 32-bit instructions at addresses 2 mod 4."""
    return len(insns) == 3 and all(insn.size == 4 and insn.address % 4 == 2 for insn in insns)
