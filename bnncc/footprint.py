"""Code size and worst stack of a compiled model, from the cross compiler where it is installed."""

import tempfile
from pathlib import Path
from typing import Any

from bnncc import sim
from bnncc.artifact import Artifact
from bnncc.errors import ToolError


def footprint(compiled: Artifact) -> dict[str, Any]:
    """Bytes of context, result, code (in RAM also), libraries and stack; all but the first two are None without arm-none-eabi-gcc."""
    program = compiled.program
    sizes: dict[str, Any] = {
        "context_bytes": program.context_bytes,
        "result_bytes": compiled.result_dtype.itemsize,
        "code_bytes": None,
        "ram_code_bytes": None if any(s.in_ram for s in program.steps) else 0,
        "library_bytes": None,
        "stack_bytes": None,
        "stack_without": [],
        "toolchain": None,
    }
    with tempfile.TemporaryDirectory(prefix="bnncc-") as scratch:
        folder = Path(scratch)
        for name, text in compiled.files.items():
            (folder / name).write_text(text, encoding="utf-8")
        try:
            found = sim.footprint(
                folder / f"{compiled.name}.c", compiled.target.core, f"{compiled.name}_run", include=[folder]
            )
        except ToolError:
            return sizes
    sizes["code_bytes"] = found.flash_bytes - program.flash_bytes
    sizes["ram_code_bytes"] = found.ram_code_bytes
    sizes["library_bytes"] = found.library_bytes
    sizes["stack_bytes"] = found.stack_bytes + max((s.parts.stack for s in program.steps), default=0)
    sizes["stack_without"] = list(found.library_calls)
    sizes["toolchain"] = "arm-none-eabi-gcc -O2"
    return sizes
