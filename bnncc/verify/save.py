"""--save: the C's outputs as an .npz."""

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnncc.files import write_whole


def save_outputs(path: Path, outputs: Mapping[str, NDArray[Any]]) -> None:
    """Write the arrays under their ONNX names, in the mapping's order (numpy.savez would refuse some names).

    Raises ToolError E0509; an existing file is replaced whole or not at all.
    """
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as z:
        for name, values in outputs.items():
            data = io.BytesIO()
            np.lib.format.write_array(data, np.ascontiguousarray(values), allow_pickle=False)
            z.writestr(f"{name}.npy", data.getvalue())
    write_whole(path, whole.getvalue())
