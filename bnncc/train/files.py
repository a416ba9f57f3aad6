"""Writing a file whole or not at all."""

import os
import tempfile
from pathlib import Path

from bnncc.errors import ToolError


def write_whole(path: Path, content: bytes) -> Path:
    """Write `content` to `path`, making its folder; a failure leaves what was there before. Returns the path.

    Raises:
        ToolError: E0701 the disk refused.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp makes files that only their owner can read
        os.replace(temporary, path)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise ToolError.of(
            "E0701", f"cannot write: {error.strerror or error}", where=str(path), remedy="choose another folder"
        ) from error
    return path
