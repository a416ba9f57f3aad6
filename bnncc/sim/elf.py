"""What is read from ELF files: symbols, functions, where a program lies, and the marks of firmware/sim/mark.h."""

import struct
from bisect import bisect_right
from dataclasses import dataclass, replace
from pathlib import Path

from elftools.elf.elffile import ELFFile
from elftools.elf.sections import ARMAttributesSection, SymbolTableSection

_EXECUTABLE = 0x4  # SHF_EXECINSTR


@dataclass(frozen=True)
class Symbol:
    """A function or an object: its address, its size in bytes and the section it lies in (".text", ".rodata", ...)."""

    address: int
    size: int
    section: str


@dataclass(frozen=True)
class Function:
    """A function of a linked program and the addresses of its code, [address, end)."""

    name: str
    address: int
    end: int


def symbols(elf: Path) -> dict[str, Symbol]:
    """The functions and objects of an ELF file, linked or not, by name."""
    found = {}
    with elf.open("rb") as stream:
        file = ELFFile(stream)
        table = file.get_section_by_name(".symtab")
        assert isinstance(table, SymbolTableSection), f"{elf} is stripped"
        for symbol in table.iter_symbols():
            index = symbol["st_shndx"]
            if symbol["st_info"]["type"] in ("STT_FUNC", "STT_OBJECT") and isinstance(index, int):
                address = symbol["st_value"] & ~(symbol["st_info"]["type"] == "STT_FUNC")  # bit 0 says Thumb
                found[symbol.name] = Symbol(address, symbol["st_size"], file.get_section(index).name)
    return found


def functions(elf: Path) -> list[Function]:
    """The functions of a linked program by address, several names of one address in the order of preference.

    Global labels of code without a type count too, as in hand-written assembly; local ones do not. What has no size
    ends at the next function or with its section. Empty if the program is stripped.
    """
    found = []
    with elf.open("rb") as stream:
        file = ELFFile(stream)
        table = file.get_section_by_name(".symtab")
        for symbol in table.iter_symbols() if isinstance(table, SymbolTableSection) else ():
            kind, binding, index = symbol["st_info"]["type"], symbol["st_info"]["bind"], symbol["st_shndx"]
            label = kind == "STT_NOTYPE" and binding == "STB_GLOBAL"
            if not (kind == "STT_FUNC" or label) or not isinstance(index, int):
                continue
            section = file.get_section(index)
            address, last = symbol["st_value"] & ~1, section["sh_addr"] + section["sh_size"]
            if section["sh_flags"] & _EXECUTABLE and address < last:
                size = symbol["st_size"]
                rank = (address, label, binding == "STB_LOCAL", not size, symbol.name)
                found.append((rank, Function(symbol.name, address, address + size if size else last), bool(size)))
    found.sort(key=lambda entry: entry[0])
    starts = sorted({f.address for _, f, _ in found})
    ends = [*starts[1:], 1 << 32]
    return [
        f if sized else replace(f, end=min(f.end, ends[bisect_right(starts, f.address) - 1])) for _, f, sized in found
    ]


def segments(elf: Path) -> list[tuple[int, int]]:
    """Where a program wants memory, as (address, bytes): what is loaded, and where it is used if that differs."""
    with elf.open("rb") as stream:
        loaded = list(ELFFile(stream).iter_segments("PT_LOAD"))
    wanted = [(s["p_paddr"], s["p_filesz"]) for s in loaded] + [(s["p_vaddr"], s["p_memsz"]) for s in loaded]
    return [(address, size) for address, size in wanted if size]


def word(elf: Path, address: int) -> int | None:
    """The 32 bits that a program loads to an address, None if it loads nothing there."""
    with elf.open("rb") as stream:
        for segment in ELFFile(stream).iter_segments("PT_LOAD"):
            at = address - segment["p_paddr"]
            if 0 <= at <= segment["p_filesz"] - 4:
                return int.from_bytes(segment.data()[at : at + 4], "little")
    return None


def architecture(elf: Path) -> tuple[int, str]:
    """Tag_CPU_arch of an ELF file and Tag_CPU_arch_profile ("A", "R", "M"); 0 and " " if it does not say (Arm, Addenda to the
    ABI: 11 and 12 are Armv6-M)."""
    found = {"TAG_CPU_ARCH": 0, "TAG_CPU_ARCH_PROFILE": ord(" ")}
    with elf.open("rb") as stream:
        section = ELFFile(stream).get_section_by_name(".ARM.attributes")
        for subsection in section.iter_subsections() if isinstance(section, ARMAttributesSection) else ():
            for part in subsection.iter_subsubsections():
                for tag in found:
                    found.update((tag, int(attribute.value)) for attribute in part.iter_attributes(tag))
    return found["TAG_CPU_ARCH"], chr(found["TAG_CPU_ARCH_PROFILE"])


def marks(elf: Path) -> list[tuple[int, int]]:
    """(address, number) of each BNNCC_MARK of a linked program, in the program's order."""
    with elf.open("rb") as stream:
        section = ELFFile(stream).get_section_by_name(".bnncc.marks")
        content = section.data() if section else b""
    return [(address & ~1, number) for address, number in struct.iter_unpack("<II", content)]
