"""All kernels. To add one: a Kernel value in a module here, its template in templates/kernels, its costs in targets/cores."""

from bnncc.kernels import binary, depthwise, lut, moves, norms, quads, sbs, sbs_vector, simple, values
from bnncc.kernels.base import Kernel

KERNELS: tuple[Kernel, ...] = (
    *binary.KERNELS,
    *sbs.KERNELS,
    *sbs_vector.KERNELS,
    *lut.KERNELS,
    *depthwise.KERNELS,
    *quads.KERNELS,
    *values.KERNELS,
    *moves.KERNELS,
    *norms.KERNELS,
    *simple.KERNELS,
)
