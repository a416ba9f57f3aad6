"""Kernels that copy their weights to RAM before their loops, where flash has wait states."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from bnncc.kernels.base import Kernel
from bnncc.kernels.binary import conv
from bnncc.program import Parts
from bnncc.tensor import Op
from bnncc.waits import Reads


def copying(kernel: Kernel, words: Callable[[Op], int]) -> Kernel:
    """The same kernel, its weights copied whole: the constant NAME_weights of so many words."""

    def refuse(op: Op) -> str:
        return kernel.refuses(op) or ("its weights are read once" if conv(op).y.pixels == 1 else "")

    def build(op: Op, name: str) -> Parts:
        parts = kernel.build(op, name)
        weights = next(c for c in parts.constants if c.name == f"{name}_weights")
        assert weights.data.size == words(op)
        return replace(
            parts,
            scratch=(*parts.scratch, ("weights", "uint32_t", weights.data.size)),
            params={**parts.params, "copied": weights.data.size},
        )

    def more(work: Callable[[Op], Mapping[str, float]]) -> Callable[[Op], Mapping[str, float]]:
        return lambda op: {**in_ram(work(op)), "copy": words(op)}

    return replace(
        kernel,
        name=f"{kernel.name}_ram",
        title=f"{kernel.title}, the weights copied to RAM",
        refuses=refuse,
        build=build,
        work=more(kernel.work),
        worst=more(kernel.worst) if kernel.worst else None,
        reads=lambda op: Reads(words(op)),
        copies=True,
        like=kernel.name,
    )


def in_ram(work: Mapping[str, float]) -> dict[str, float]:
    """The work where rows are in the same memory as their lists: loads that follow each other need not change over."""
    return {"ram_quad" if part == "quad" else part: times for part, times in work.items()}
