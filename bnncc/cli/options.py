"""The options that several commands share."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

import bnncc
from bnncc.compiler import Compiled


class InputType(StrEnum):
    u8 = "u8"
    i8 = "i8"
    f32 = "f32"


class Layout(StrEnum):
    nchw = "nchw"
    nhwc = "nhwc"


class Storage(StrEnum):
    f32 = "f32"
    f16 = "f16"
    i8 = "i8"


def plus_or_minus(text: str) -> int:
    """A sign as it is written on the command line, with or without its plus."""
    if text not in ("+1", "1", "-1"):
        raise typer.BadParameter(f"{text!r} is not one of '+1', '-1'.")
    return int(text)


Model = Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="The model.", show_default=False)]
Target = Annotated[str, typer.Option("--target", "-t", help="A core or a board; `bnncc targets` lists them.")]
Name = Annotated[str | None, typer.Option("--name", help="Prefix of every C symbol; the file's name by default.")]
Input = Annotated[
    InputType | None, typer.Option("--input", help="What the C takes for a float input that holds integers: bytes.")
]
InputLayout = Annotated[
    Layout | None,
    typer.Option("--input-layout", help="The order in which the C takes an image; the model's by default."),
]
SignAtZero = Annotated[
    int | None,
    typer.Option(
        "--sign-at-zero",
        parser=plus_or_minus,
        metavar="<+1|-1>",
        help="What ONNX Sign gives at zero instead of 0, which is no bit.",
    ),
]
RealWeights = Annotated[Storage, typer.Option("--real-weights", help="How weights that are not binary are stored.")]
Kernel = Annotated[
    str | None,
    typer.Option("--kernel", help="Take this kernel wherever it applies (for tests); `bnncc bench` names them."),
]
Inputs = Annotated[
    Path | None,
    typer.Option("--inputs", metavar="FILE", help="Samples, .npy or .npz, in the ONNX layout; random ones without it."),
]
Calibrate = Annotated[
    Path | None,
    typer.Option(
        "--calibrate",
        metavar="DATA",
        help="Typical samples, .npy or .npz: bits are made rare, cycles predicted for them.",
    ),
]
WaitStates = Annotated[
    int | None,
    typer.Option(
        "--wait-states", min=0, max=99, help="Of the flash, beside the figure at zero; the board's own if not given."
    ),
]
RamBudget = Annotated[
    int | None,
    typer.Option(
        "--ram-budget",
        min=0,
        help="Bytes that the context may take, faster kernels use what is left; a board's RAM by default.",
    ),
]
Variants = Annotated[
    list[str] | None,
    typer.Argument(metavar="[VARIANT]...", help="Its variants, such as `reduced`.", show_default=False),
]
Epochs = Annotated[int | None, typer.Option("--epochs", min=1, help="Passes over the training part.")]
Width = Annotated[float | None, typer.Option("--width", help="Factor on the width of all layers.")]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Another value for a key of the recipe: batch=100"),
]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="Of the CPU; all of them if not given.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")]
Port = Annotated[str | None, typer.Option("--port", help="The serial port; found by itself if not given.")]


def compiled(
    model: Path,
    target: str,
    name: str | None,
    input_type: InputType | None,
    layout: Layout | None,
    at_zero: int | None,
    storage: Storage,
    **given: Any,
) -> Compiled:
    """Compile with the shared options."""
    return bnncc.compile(
        model,
        target,
        name=name,
        input=input_type.value if input_type else None,
        input_layout=layout.value if layout else None,
        sign_at_zero=at_zero or 0,
        real_weights=storage.value,
        **given,
    )
