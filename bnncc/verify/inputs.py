"""Samples for verification and calibration: from a file, checked against the model, or random ones of the right type."""

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnncc.errors import UsageError
from bnncc.frontend.importer import Imported
from bnncc.tensor import Elem

Array = NDArray[Any]
RANGES = {Elem.U8: (0, 255), Elem.I8: (-128, 127)}
ONNX_TYPES = {Elem.U8: np.uint8, Elem.I8: np.int8, Elem.F32: np.float32}


def load_inputs(path: Path, input_name: str) -> Array:
    """The samples in a .npy or .npz: the array named like the model's input, else x, else the first. Raises UsageError E0404."""
    try:
        with np.load(path, allow_pickle=False) as data:
            names = list(data.files)
            if not names:
                raise UsageError.of(
                    "E0404", f"{path} holds no array", remedy="save the samples with numpy.savez(path, x=samples)"
                )
            return np.asarray(data[next((n for n in (input_name, "x") if n in names), names[0])])
    except (AttributeError, TypeError):  # .npy: np.load gives the array itself, which is no context manager
        return np.asarray(np.load(path, allow_pickle=False))
    except FileNotFoundError:
        raise UsageError.of(
            "E0404", f"cannot read {path}: no such file", remedy="check the path of the samples"
        ) from None
    except (OSError, ValueError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error) as e:
        raise UsageError.of(
            "E0404",
            f"{path} is not a readable .npy or .npz ({e})",
            remedy="save the samples with numpy.save or numpy.savez",
        ) from None


def random_inputs(imported: Imported, elem: Elem, samples: int, seed: int) -> Array:
    """Random samples [N, *onnx shape] in the model's own type: bytes over their whole range, reals from a normal distribution."""
    rng = np.random.default_rng(seed)
    size = (samples, *imported.input_shape)
    if elem is Elem.F32:
        return rng.normal(size=size).astype(np.float32)
    lo, hi = RANGES[elem]
    return rng.integers(lo, hi + 1, size).astype(ONNX_TYPES[imported.input_elem])


def check_inputs(imported: Imported, elem: Elem, x: Array) -> Array:
    """x as [N, *onnx shape] in the model's own type. Raises UsageError E0405 (shape), E0406 (values)."""
    shape = imported.input_shape
    if x.shape[1:] == shape[1:] and len(x.shape) == len(shape):
        x = x[:, None]
    elif x.shape[1:] != shape:
        raise UsageError.of(
            "E0405",
            f"the samples have shape {list(x.shape)}; the model's input is {list(shape)}",
            remedy=f"give an array of shape [N, {', '.join(map(str, shape[1:]))}]",
        )
    if len(x) == 0 or x.dtype.kind not in "buif":
        raise UsageError.of(
            "E0405", f"there are {len(x)} samples of type {x.dtype}", remedy="give at least one sample of numbers"
        )
    converted = elem is not imported.input_elem  # by --input
    if elem is Elem.F32:
        bad, why = ~np.isfinite(x), "is not finite"
    else:
        lo, hi = RANGES[elem]
        bad, why = (
            ~((x >= lo) & (x <= hi) & (x == np.floor(x))),
            f"is no integer in {lo}..{hi}, which {f'--input {elem.value} needs' if converted else 'the model takes'}",
        )
    if bad.any():
        index = tuple(int(k) for k in np.argwhere(bad)[0])
        place = [index[0], *index[2:]]
        other = ", or choose another --input" if converted else ""
        raise UsageError.of("E0406", f"value {x[index]} at {place} {why}", remedy=f"correct the samples{other}")
    return x.reshape(len(x), *shape).astype(ONNX_TYPES[imported.input_elem])
