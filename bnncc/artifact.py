"""A compiled model as later stages see it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bnncc.emit import result_dtype
from bnncc.errors import Diagnostic
from bnncc.frontend.importer import Imported
from bnncc.layout import C_TYPES, DTYPES
from bnncc.passes.polarity import Calibration
from bnncc.program import Program
from bnncc.target import Target


@dataclass(frozen=True)
class Artifact:
    """The generated files, and all that verification, measurement and reports need to know of them."""

    name: str
    target: Target
    imported: Imported
    program: Program
    files: Mapping[str, str]
    calibration: Calibration | None = None
    forced: str | None = None  # the kernel that was asked for

    @property
    def warnings(self) -> tuple[Diagnostic, ...]:
        taken = {s.kernel for step in self.program.steps for s in (step, step.then) if s}
        if self.forced is None or self.forced in taken:
            return self.imported.warnings
        unused = Diagnostic("W0403", f"{self.forced} does no step", remedy="--dump DIR lists why, step by step")
        return (*self.imported.warnings, unused)

    @property
    def input_dtype(self) -> "np.dtype[Any]":
        """The type of one input value in C."""
        return DTYPES[C_TYPES[self.program.graph.input.elem]]

    @property
    def result_dtype(self) -> "np.dtype[np.void]":
        """NAME_result as a numpy structured dtype."""
        return result_dtype(self.program)
