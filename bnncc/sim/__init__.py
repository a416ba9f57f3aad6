"""Generated C in the simulator: building it for a core, running it in QEMU, counting what it executed."""

from bnncc.sim.build import build_elf
from bnncc.sim.qemu import Run, run_elf, run_program

__all__ = ["Run", "build_elf", "run_elf", "run_program"]
