"""Generated C in the simulator: building it for a core, running it in QEMU, counting what it executed."""

from bnncc.sim.build import build_elf
from bnncc.sim.cycles import Timing
from bnncc.sim.footprint import Footprint, footprint
from bnncc.sim.measure import Measurement, measure
from bnncc.sim.profile import Profile, profile
from bnncc.sim.qemu import Run, run_elf, run_program

__all__ = [
    "Footprint",
    "Measurement",
    "Profile",
    "Run",
    "Timing",
    "build_elf",
    "footprint",
    "measure",
    "profile",
    "run_elf",
    "run_program",
]
