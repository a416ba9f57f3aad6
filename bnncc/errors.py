"""Diagnostics: every message that bnncc refuses or warns with has a code, a place, a reason and a remedy.

The exceptions form one tree, and each branch is one exit code of the command line:

    BnnccError
    ├── ModelError   1  the model cannot be compiled, or verification failed
    ├── UsageError   2  wrong options or bad input data
    └── ToolError    3  the environment: a tool, a board, the disk
"""

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NoReturn, Self

from bnncc.codes import CODES


@dataclass(frozen=True)
class Diagnostic:
    """One message. `code` is a key of `CODES`; `where` names the ONNX node or the file, if there is one."""

    code: str
    message: str
    where: str = ""
    remedy: str = ""

    def __post_init__(self) -> None:
        if self.code not in CODES:
            raise KeyError(f"diagnostic code {self.code} is not registered in bnncc.codes")

    @property
    def severity(self) -> str:
        return "warning" if self.code.startswith("W") else "error"

    def __str__(self) -> str:
        lines = [f"{self.severity}[{self.code}]: {self.message}"]
        if self.where:
            lines.append(f"  at: {self.where}")
        if self.remedy:
            lines.append(f"  do: {self.remedy}")
        return "\n".join(lines)


class BnnccError(Exception):
    """Anything bnncc refuses. `diagnostics` holds every problem found, not only the first."""

    exit_code = 1

    def __init__(self, *diagnostics: Diagnostic) -> None:
        super().__init__("\n".join(map(str, diagnostics)))
        self.diagnostics = diagnostics

    @classmethod
    def of(cls, code: str, message: str, *, where: str = "", remedy: str = "") -> Self:
        """The exception with the one diagnostic described."""
        return cls(Diagnostic(code, message, where, remedy))


class ModelError(BnnccError):
    """The model cannot be compiled, or a verification failed."""

    exit_code = 1


class UsageError(BnnccError):
    """Wrong options, or input data that does not fit the model."""

    exit_code = 2


class ToolError(BnnccError):
    """The environment: a missing tool, a tool that failed, a board that is not there, a full disk."""

    exit_code = 3


def raise_all(diagnostics: Iterable[Diagnostic]) -> None:
    """Raise one ModelError with all the errors among `diagnostics`, if there are any."""
    errors = [d for d in diagnostics if d.severity == "error"]
    if errors:
        raise ModelError(*errors)


def run_script(main: Callable[[], int | None]) -> NoReturn:
    """Run a script's `main` and exit with what it returns; what bnncc refuses is told on standard error, without a traceback."""
    try:
        sys.exit(main())
    except BnnccError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
