"""What a training run shows on a terminal."""

from typing import Any

import lightning.pytorch as pl
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from bnncc.train.module import Training


class Bar(pl.Callback):
    """One bar for the whole run on standard error, in steps, and what the last epoch gave."""

    def __init__(self) -> None:
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self.task: TaskID | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        del pl_module
        if not trainer.is_global_zero:
            return
        total = (trainer.max_epochs or 0) * int(trainer.num_training_batches)
        self.task = self.progress.add_task("training", total=total, completed=trainer.global_step)
        self.progress.start()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        del trainer, pl_module
        if self.task is not None:
            self.progress.advance(self.task)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        del trainer
        assert isinstance(pl_module, Training)
        if self.task is not None and pl_module.epochs:
            self.progress.update(self.task, description=describe(pl_module.epochs[-1]))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.on_train_epoch_start(trainer, pl_module)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        del trainer, pl_module, stage
        self.progress.stop()


def describe(row: dict[str, float]) -> str:
    """An epoch in a few words."""
    shares = " ".join(f"{value:.2%}" for key, value in row.items() if key.startswith("accuracy"))
    return f"epoch {row['epoch']:.0f}: loss {row['loss']:.3f}" + (f", accuracy {shares}" if shares else "")
