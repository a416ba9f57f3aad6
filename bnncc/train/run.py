"""`train`: from a recipe to a trained network, and what was observed on the way."""

import csv
import io
import json
import logging
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import nn

from bnncc.errors import ToolError, UsageError
from bnncc.files import write_whole
from bnncc.train import build, stepping
from bnncc.train.batches import LEAST, Batches
from bnncc.train.checks import refusal
from bnncc.train.data import DataSet
from bnncc.train.evaluate import recalibrate
from bnncc.train.module import Row, Training
from bnncc.train.progress import Bar
from bnncc.train.recipe import Recipe
from bnncc.train.shared_norm import SharedNorms, alone

CHECKPOINT = "checkpoint.ckpt"


@dataclass(frozen=True)
class Run:
    """What a training run gave.

    Attributes:
        model: trained, in eval mode, on the CPU.
        epochs: of each epoch `epoch`, `step`, `loss`, `accuracy...` on the held-out part, the scheduled rates, and
            `flips`, the mean share of binary weights that flipped in one of the observed steps.
        steps: of every `log_every`-th step its `epoch`, `step`, `loss`, `flips`, `pi` and `pi/LAYER`.
        test: what the test part gave.
        device: what it was trained on. rank: of this process; only 0 need write results.
        seconds: of this call.
    """

    recipe: Recipe
    model: nn.Module
    data: DataSet
    epochs: list[Row]
    steps: list[Row]
    test: Row
    device: str
    rank: int
    seconds: float


def train(
    recipe: Recipe,
    *,
    out: Path | None = None,
    resume: bool = False,
    data: DataSet | None = None,
    model: nn.Module | None = None,
    on_epoch: Callable[[Row], None] | None = None,
    show: bool = True,
    accelerator: str = "auto",
    devices: int | str = "auto",
    nodes: int = 1,
    threads: int | None = None,
) -> Run:
    """Train as `recipe` says. The recipe, the versions, the machine and its number of threads determine the outcome.

    Args:
        out: folder for the checkpoint, metrics.csv, steps.csv and TensorBoard's events; without it nothing is kept.
        resume: go on from the checkpoint in `out`, if there is one. Without it, a folder with a checkpoint is refused.
        data, model: in place of the recipe's own.
        on_epoch: called with the row of each epoch when it is over; what it raises ends the run.
        show: a progress bar on standard error.
        accelerator, devices, nodes: as of Lightning's Trainer.
        threads: of the CPU; torch's setting if not given.

    Raises:
        ModelError: E0702 the loss is no longer finite.
        UsageError: E0703 the checkpoint is of another run, E0710 the recipe asks for what there is not, E0711 `out`
            holds a run.
        ToolError: E0704, E0705 the data set; E0509 a file cannot be written; E0722 there is no such device.
    """
    began = time.monotonic()
    if threads:
        torch.set_num_threads(threads)
    data = build.divided(recipe, data or build.data(recipe))
    torch.manual_seed(recipe.seed)
    model = model or build.network(recipe, data)
    checkpoint = out / CHECKPOINT if out else None

    def evaluate() -> Row:
        with alone(model):
            recalibrate(model, data.train, recipe.recalibrate)
        row = build.score(recipe, model, data.validation) if data.validation else {}
        model.train()
        return row

    def after_epoch(training: Training) -> None:
        if out and training.global_rank == 0:
            _write_csv(out / "metrics.csv", training.epochs)
            _write_csv(out / "steps.csv", training.steps)
        if on_epoch:
            on_epoch(training.epochs[-1])

    batches = Batches(len(data.train), recipe.batch, recipe.seed)
    if not len(batches):
        raise refusal(recipe, f"there are {len(data.train)} training samples", f"give {LEAST} or more")
    optimizer, values = stepping.optimizer(recipe, model, recipe.epochs, len(batches))
    samples = build.samples(recipe, data)
    build.try_out(recipe, model, samples)
    training = Training(
        model,
        samples,
        batches,
        loss=build.loss(recipe),
        optimizer=optimizer,
        values=values,
        evaluate=evaluate,
        log_every=recipe.log_every,
        checkpoint=checkpoint,
        about=asdict(recipe),
        before_epoch=partial(build.stage, recipe, model),
        after_epoch=after_epoch,
    )
    on_gpus = torch.cuda.is_available() and accelerator != "cpu"
    with _silence():
        try:
            trainer = pl.Trainer(
                max_epochs=recipe.epochs,
                accelerator=accelerator,
                devices=devices,
                num_nodes=nodes,
                precision=recipe.precision,  # type: ignore[arg-type]
                sync_batchnorm=on_gpus,
                logger=TensorBoardLogger(out, name="", version="tensorboard") if out else False,
                callbacks=[Bar()] if show else [],
                plugins=[_WholeFiles(), *([] if on_gpus else [SharedNorms()])],
                enable_progress_bar=False,
                enable_model_summary=False,
                enable_checkpointing=False,
                use_distributed_sampler=False,
            )
        except (ValueError, MisconfigurationException) as error:
            reason = str(error).splitlines()[0]
            raise ToolError.of(
                "E0722",
                f"training cannot run on {accelerator!r}, {devices} of it: {reason}",
                remedy="give --accelerator cpu, gpu or auto, and no more --devices than there are",
            ) from error
        least = LEAST * trainer.world_size
        if min(recipe.batch, len(samples)) < least:
            message = f"batches of {recipe.batch} of {len(samples)} training samples"
            raise refusal(recipe, message, f"give {least} or more: {LEAST} for each process")
        if checkpoint and checkpoint.exists() and not resume and trainer.global_rank == 0:
            raise UsageError.of(
                "E0711",
                "the folder holds a run",
                where=str(out),
                remedy="go on with it (--resume), or name another folder",
            )
        if out and trainer.global_rank == 0:
            write_whole(out / "settings.json", (json.dumps(asdict(recipe), indent=2) + "\n").encode())
        found = _fitting(checkpoint, training) if resume and checkpoint and checkpoint.exists() else None
        try:
            trainer.fit(training, samples.loader(batches), ckpt_path=found, weights_only=True)
        except SystemExit:  # Lightning's answer to Ctrl-C
            raise KeyboardInterrupt from None
    device = trainer.strategy.root_device
    model.to(device).eval()
    test = build.score(recipe, model, data.test)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    return Run(
        recipe,
        model.cpu(),
        data,
        training.epochs,
        training.steps,
        test,
        name,
        trainer.global_rank,
        time.monotonic() - began,
    )


class _WholeFiles(TorchCheckpointIO):
    """Checkpoints that are written whole or not at all."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        del storage_options
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        write_whole(Path(path), buffer.getvalue())


def _fitting(checkpoint: Path, training: Training) -> Path:
    """`checkpoint`, if it is of this run. Raises UsageError E0703."""
    try:
        state = torch.load(checkpoint, weights_only=True, map_location="cpu")
        about, weights = state["about"], state["state_dict"]
    except Exception as error:  # torch.load raises a wide variety
        raise _misfit(checkpoint, f"it cannot be read: {error}") from error
    ours = dict(training.about or {})
    # How the settings were given does not matter, if they are the same.
    other = sorted(key for key in (ours.keys() | about.keys()) - {"changes"} if ours.get(key) != about.get(key))
    if other:
        was = ", ".join(f"{key} {about.get(key)}" for key in other)
        raise _misfit(checkpoint, f"it is of a run with {was}")
    if {k: v.shape for k, v in weights.items()} != {k: v.shape for k, v in training.state_dict().items()}:
        raise _misfit(checkpoint, "it is of another network")
    return checkpoint


def _misfit(checkpoint: Path, reason: str) -> UsageError:
    remedy = "delete it to begin anew, or name another folder"
    return UsageError.of(
        "E0703", f"the checkpoint does not fit this run: {reason}", where=str(checkpoint), remedy=remedy
    )


def _write_csv(path: Path, rows: Sequence[Row]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(path, text.getvalue().encode())


@contextmanager
def _silence() -> Iterator[None]:
    """Keep Lightning and DDP from printing tips and warnings about their own parts."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning.*")
            warnings.filterwarnings("ignore", message="Grad strides do not match")  # of DDP, about speed
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
