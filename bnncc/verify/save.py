"""--save: the C's outputs as an .npz."""

import io
import os
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnncc.errors import ToolError


def save_outputs(path: Path, outputs: Mapping[str, NDArray[Any]]) -> None:
    """Write the arrays under their ONNX names, in the mapping's order (numpy.savez would refuse some names).

    Raises ToolError E0509; an existing file is replaced whole or not at all.
    """
    temporary = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as f, zipfile.ZipFile(f, "w", zipfile.ZIP_DEFLATED) as z:
            for name, values in outputs.items():
                data = io.BytesIO()
                np.lib.format.write_array(data, np.ascontiguousarray(values), allow_pickle=False)
                z.writestr(f"{name}.npy", data.getvalue())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except OSError as e:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        raise ToolError.of(
            "E0509",
            f"cannot write {path}: {e.strerror or e}",
            remedy="check the path, its rights and the space on the disk",
        ) from None
