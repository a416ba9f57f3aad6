"""Training of binarized networks in torch, and their export to ONNX. Needs the extra `train`."""

from bnncc.train.bop import Bop, Bop2ndOrder, CascadedBop
from bnncc.train.export import ExportCheck, export_onnx
from bnncc.train.joint import BinaryAndReal
from bnncc.train.latent import fold, latent
from bnncc.train.layers import (
    BinaryConv2d,
    BinaryLinear,
    Normalize,
    Sign,
    binary_parameters,
    real_parameters,
    sign,
)
from bnncc.train.schedules import GroupSchedule, Schedule

__all__ = [
    "BinaryAndReal",
    "BinaryConv2d",
    "BinaryLinear",
    "Bop",
    "Bop2ndOrder",
    "CascadedBop",
    "ExportCheck",
    "GroupSchedule",
    "Normalize",
    "Schedule",
    "Sign",
    "binary_parameters",
    "export_onnx",
    "fold",
    "latent",
    "real_parameters",
    "sign",
]
