"""bnncc train."""

from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from bnncc.cli.options import Changes, Epochs, Json, Threads, Variants, Width
from bnncc.cli.show import console, errors, print_json, print_table
from bnncc.errors import ToolError, UsageError


class Accelerator(StrEnum):
    auto = "auto"
    cpu = "cpu"
    gpu = "gpu"


NEEDED = ("torch", "lightning", "tensorboard", "matplotlib", "onnxscript")


def train_command(
    recipe: Annotated[
        str, typer.Argument(metavar="RECIPE", help="One of --list, or a .toml file.", show_default=False)
    ] = "",
    variants: Variants = None,
    epochs: Epochs = None,
    width: Width = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Of the weights, the order and all else.")] = None,
    changes: Changes = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="DIR", help="For the results; build/train/RECIPE-sSEED if not given."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where a run in --out stopped.")] = False,
    threads: Threads = None,
    accelerator: Annotated[
        Accelerator, typer.Option("--accelerator", help="What to train on; a GPU if there is one, if not given.")
    ] = Accelerator.auto,
    devices: Annotated[int, typer.Option("--devices", min=1, help="How many, each in a process of its own.")] = 1,
    nodes: Annotated[int, typer.Option("--nodes", min=1, help="Machines; see Lightning on how to start them.")] = 1,
    listing: Annotated[bool, typer.Option("--list", help="Show the recipes that come with bnncc.")] = False,
    json: Json = False,
) -> None:
    """Train a network of the papers by its recipe, and export it.

    Example: bnncc train nayak-lenet5 bop reduced
    """
    need_training()
    from bnncc.train import recipe as recipes

    if listing:
        _list(json=json)
        return
    if not recipe:
        raise UsageError.of("E0710", "no recipe", remedy=f"give a .toml file or one of: {', '.join(recipes.names())}")
    loaded = recipes.load(recipe, variants or (), changed(changes, epochs=epochs, width=width, seed=seed))
    folder = out or Path("build/train") / f"{loaded.name}-s{loaded.seed}"
    from bnncc.train.run import train
    from bnncc.train.summary import write_files

    try:
        run = train(
            loaded,
            out=folder,
            resume=resume,
            show=not json,
            accelerator=accelerator.value,
            devices=devices,
            nodes=nodes,
            threads=threads,
        )
    except KeyboardInterrupt:
        errors.print(f"stopped; with --resume it goes on from the last checkpoint in {folder}", soft_wrap=True)
        raise
    if run.rank:
        return
    about = write_files(run, folder)
    if json:
        print_json({"ok": True, "folder": str(folder)} | about)
        return
    rows = [(key, value, loaded.reported.get(key)) for key, value in run.test.items()]
    print_table(loaded.title, [("test", "left"), ("here", "right"), ("paper", "right")], rows)
    console.print(f"{folder / 'summary.md'} tells all; model.onnx is beside it", highlight=False, soft_wrap=True)


def need_training(*also: str) -> None:
    """Raises ToolError E0701 if what training needs, and `also` needs, is not installed."""
    missing = [name for name in (*NEEDED, *also) if find_spec(name) is None]
    if missing:
        raise ToolError.of("E0701", f"{', '.join(missing)} cannot be imported", remedy="pip install 'bnncc[train]'")


def changed(changes: list[str] | None, **given: float | None) -> dict[str, Any]:
    """Changes to a recipe: the options that were `given`, then those of --set."""
    from bnncc.train.recipe import parse

    return {key: value for key, value in given.items() if value is not None} | dict(map(parse, changes or []))


def _list(*, json: bool) -> None:
    from bnncc.train import recipe as recipes

    rows = [(recipes.load(name), recipes.variants(name)) for name in recipes.names()]
    if json:
        print_json([{"name": r.name, "title": r.title, "paper": r.paper, "variants": v} for r, v in rows])
        return
    columns = [("recipe", "left"), ("variants", "left"), ("epochs", "right"), ("title", "left")]
    print_table("recipes", columns, [(r.name, " ".join(v), r.epochs, r.title) for r, v in rows])
