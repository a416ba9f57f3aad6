"""Thumb instructions as the timing rules see them; capstone reads the encoding."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum, auto
from functools import cache
from typing import Any

import capstone
from capstone import arm_const as arm

from bnncc.sim.count import Node, insn_size


class Kind(Enum):
    """What decides an instruction's timing."""

    ALU = auto()  # everything that is none of the others
    LOAD = auto()  # one register
    STORE = auto()  # one register, immediate offset
    STORE_REGISTER = auto()  # one register, register offset
    LOAD_MULTIPLE = auto()  # ldm, pop, ldrd
    STORE_MULTIPLE = auto()  # stm, push, strd
    FLOAT = auto()  # arithmetic and transfers of the FPU
    BRANCH = auto()
    IT = auto()
    SKIPPED = auto()  # a load or store of an IT block whose condition was false


@dataclass(frozen=True)
class Insn:
    """One instruction. Registers are capstone's numbers; `words` is how many words of memory it transfers."""

    address: int
    size: int
    name: str  # without condition and width: "ldr", "vadd"; "vmov_pair" moves two registers of the core
    kind: Kind
    writes: frozenset[int] = frozenset()  # general registers whose value it computes or loads, without write-back
    address_registers: frozenset[int] = frozenset()
    words: int = 0
    to_pc: bool = False  # a load into pc
    float_reads: frozenset[int] = frozenset()  # single registers of the FPU; without a multiply-accumulate's addend
    float_result: frozenset[int] = frozenset()  # that FPU arithmetic computed
    accessed: int = 0  # FLASH, OTHER: what a load or store accessed, once it was executed


_MULTIPLE = {
    "ldm": Kind.LOAD_MULTIPLE,
    "ldmdb": Kind.LOAD_MULTIPLE,
    "pop": Kind.LOAD_MULTIPLE,
    "ldrd": Kind.LOAD_MULTIPLE,
    "stm": Kind.STORE_MULTIPLE,
    "stmdb": Kind.STORE_MULTIPLE,
    "push": Kind.STORE_MULTIPLE,
    "strd": Kind.STORE_MULTIPLE,
}
_BRANCHES = {"b", "bl", "blx", "bx", "cbz", "cbnz", "tbb", "tbh"}
_FLOAT_ARITHMETIC = ("vadd", "vsub", "vmul", "vnmul", "vdiv", "vsqrt", "vcvt")
_FLOAT_ACCUMULATE = ("vmla", "vmls", "vnmla", "vnmls", "vfma", "vfms", "vfnma", "vfnms")
_LOADS = {"ldr", "ldrb", "ldrh", "ldrsb", "ldrsh"}
_STORES = {"str", "strb", "strh"}


@cache
def _disassembler() -> Any:  # capstone has no types
    mode = capstone.CS_MODE_THUMB | capstone.CS_MODE_MCLASS | capstone.CS_MODE_V8
    machine = capstone.Cs(capstone.CS_ARCH_ARM, mode)  # type: ignore[no-untyped-call]
    machine.detail = True
    return machine


@cache
def decode(address: int, code: bytes) -> tuple[Insn, ...]:
    """The instructions of a straight piece of code. One that capstone does not know counts as plain arithmetic."""
    found = []
    at = 0
    while at < len(code):
        size = insn_size(code, at)
        raw = next(_disassembler().disasm(code[at : at + size], address + at), None)
        found.append(_classify(raw) if raw else Insn(address + at, size, "unknown", Kind.ALU))
        at += size
    return tuple(found)


@cache
def executed(node: Node) -> tuple[Insn, ...]:
    """The instructions of a node, with what they accessed; a load or store that accessed nothing was skipped."""
    found = []
    for i, insn in enumerate(decode(node.address, node.code)):
        accessed = node.accessed(i)
        if not insn.words or accessed:
            found.append(replace(insn, accessed=accessed))
        else:
            found.append(Insn(insn.address, insn.size, insn.name, Kind.SKIPPED))
    return tuple(found)


def _classify(raw: Any) -> Insn:
    name = str(raw.insn_name())
    memory = [operand.mem for operand in raw.operands if operand.type == arm.ARM_OP_MEM]
    registers = [operand.reg for operand in raw.operands if operand.type == arm.ARM_OP_REG]
    written = frozenset(raw.regs_access()[1])
    to_pc = arm.ARM_REG_PC in written
    addresses = frozenset(r for m in memory for r in (m.base, m.index) if r != arm.ARM_REG_INVALID)

    def insn(kind: Kind, **fields: object) -> Insn:
        return Insn(raw.address, raw.size, name, kind, **fields)  # type: ignore[arg-type]

    if name == "it":
        return insn(Kind.IT)
    if name in _LOADS:
        return insn(Kind.LOAD, writes=frozenset(registers[:1]), address_registers=addresses, words=1, to_pc=to_pc)
    if name in _STORES:
        kind = Kind.STORE_REGISTER if any(m.index != arm.ARM_REG_INVALID for m in memory) else Kind.STORE
        return insn(kind, address_registers=addresses, words=1)
    if name in _MULTIPLE:
        if name in ("push", "pop"):
            moved, base = registers, frozenset({arm.ARM_REG_SP})
        elif memory:  # ldrd, strd
            moved, base = registers[:2], addresses
        else:
            moved, base = registers[1:], frozenset(registers[:1])
        writes = frozenset(moved) if _MULTIPLE[name] is Kind.LOAD_MULTIPLE else frozenset[int]()
        return insn(_MULTIPLE[name], writes=writes, address_registers=base, words=len(moved), to_pc=to_pc)
    if name in _BRANCHES or to_pc:
        return insn(Kind.BRANCH)
    if name.startswith("v"):
        reads, result = raw.regs_access()
        accumulates = name in _FLOAT_ACCUMULATE
        if name == "vmov" and sum(not _singles([r]) for r in registers) == 2:
            name = "vmov_pair"
        return insn(
            Kind.FLOAT,
            words=_float_words(name, registers),
            address_registers=addresses,
            float_reads=_singles(registers[1:] if accumulates else reads),
            float_result=_singles(result if accumulates or name in _FLOAT_ARITHMETIC else ()),
        )
    return insn(Kind.ALU, writes=written - {arm.ARM_REG_CPSR})


def _singles(registers: Iterable[int]) -> frozenset[int]:
    """The FPU's registers among these, as single ones: d1 is s2 and s3."""
    found = set()
    for register in registers:
        if arm.ARM_REG_S0 <= register <= arm.ARM_REG_S31:
            found.add(register)
        elif arm.ARM_REG_D0 <= register <= arm.ARM_REG_D15:
            first = arm.ARM_REG_S0 + 2 * (register - arm.ARM_REG_D0)
            found |= {first, first + 1}
    return frozenset(found)


def _float_words(name: str, registers: list[int]) -> int:
    """The words that an FPU load or store moves; 0 for other instructions."""
    doubles = range(arm.ARM_REG_D0, arm.ARM_REG_D31 + 1)
    words = [2 if register in doubles else 1 for register in registers]
    if name in ("vpush", "vpop"):
        return sum(words)
    if name.startswith(("vldm", "vstm")):
        return sum(words[1:])
    return sum(words[:1]) if name in ("vldr", "vstr") else 0
