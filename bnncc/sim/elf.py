"""What is read from ELF files: symbols, their sizes, and the marks of firmware/sim/mark.h."""

import struct
from dataclasses import dataclass
from pathlib import Path

from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection


@dataclass(frozen=True)
class Symbol:
    """A function or an object: its address, its size in bytes and the section it lies in (".text", ".rodata", ...)."""

    address: int
    size: int
    section: str


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


def marks(elf: Path) -> list[tuple[int, int]]:
    """(address, number) of each BNNCC_MARK of a linked program, in the program's order."""
    with elf.open("rb") as stream:
        section = ELFFile(stream).get_section_by_name(".bnncc.marks")
        content = section.data() if section else b""
    return [(address & ~1, number) for address, number in struct.iter_unpack("<II", content)]
