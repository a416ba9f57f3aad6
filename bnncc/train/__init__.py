"""Training of binarized networks in torch, and their export to ONNX. Needs the extra `train`."""

from bnncc.train.bop import Bop, Bop2ndOrder, CascadedBop
from bnncc.train.export import ExportCheck, export_onnx
from bnncc.train.joint import BinaryAndReal
from bnncc.train.latents import clip_weights, fold, full_precision, latent, load_full_precision
from bnncc.train.layers import (
    BinaryConv1d,
    BinaryConv2d,
    BinaryConvTranspose2d,
    BinaryLinear,
    Blur,
    ChannelNorm,
    Normalize,
    RPReLU,
    RSign,
    Sign,
    binary_parameters,
    real_parameters,
    set_norm_momentum,
    sign,
)
from bnncc.train.metrics import Flips, exit_statistics, pi, psnr, sign_density, weight_density
from bnncc.train.schedules import GroupSchedule, Schedule

__all__ = [
    "BinaryAndReal",
    "BinaryConv1d",
    "BinaryConv2d",
    "BinaryConvTranspose2d",
    "BinaryLinear",
    "Blur",
    "Bop",
    "Bop2ndOrder",
    "CascadedBop",
    "ChannelNorm",
    "ExportCheck",
    "Flips",
    "GroupSchedule",
    "Normalize",
    "RPReLU",
    "RSign",
    "Schedule",
    "Sign",
    "binary_parameters",
    "clip_weights",
    "exit_statistics",
    "export_onnx",
    "fold",
    "full_precision",
    "latent",
    "load_full_precision",
    "pi",
    "psnr",
    "real_parameters",
    "set_norm_momentum",
    "sign",
    "sign_density",
    "weight_density",
]
