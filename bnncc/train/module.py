"""The training loop as a Lightning module: what happens in a step and after an epoch."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from bnncc.errors import ModelError
from bnncc.train.batches import Batch, Batches, Samples
from bnncc.train.evaluate import outputs_of
from bnncc.train.losses import Loss, summed
from bnncc.train.metrics import Flips, weight_density
from bnncc.train.stepping import Values

Row = dict[str, float]
CHECKPOINT_SECONDS = 300


class Training(pl.LightningModule):
    """Trains `model` on `samples`, on the sum of its exits' losses.

    Before each step the random number generator is seeded with the run's seed and the number of the step, and each
    schedule's value is set: a step depends on nothing but the weights, the optimizer's state and its number. So a
    run that was interrupted and goes on ends with the same bits.

    `epochs` and `steps` hold what was observed: a row for each epoch, to which `evaluate` adds, and one for every
    `log_every`-th step. With `checkpoint` the state is kept in that file after each epoch, and in long ones more often,
    and `about` with it. `before_epoch` is called with the epoch, counted from 0, before it begins and when a run goes on
    in it; `after_epoch` when its row and checkpoint are there.
    """

    def __init__(
        self,
        model: nn.Module,
        samples: Samples,
        batches: Batches,
        *,
        loss: Loss,
        optimizer: torch.optim.Optimizer,
        values: Values,
        evaluate: Callable[[], Row],
        log_every: int = 0,
        checkpoint: Path | None = None,
        about: Mapping[str, Any] | None = None,
        before_epoch: Callable[[int], None] | None = None,
        after_epoch: Callable[["Training"], None] | None = None,
    ) -> None:
        super().__init__()
        self.model, self.samples, self.batches = model, samples, batches
        self.loss, self.optimizer, self.values = loss, optimizer, values
        self.evaluate, self.checkpoint, self.about = evaluate, checkpoint, about
        self.before_epoch, self.after_epoch = before_epoch, after_epoch
        self.log_every = log_every or max(1, len(batches) // 10)
        self.flips = Flips(model)
        self.epochs: list[Row] = []
        self.steps: list[Row] = []
        self.totals, self.count = torch.zeros(2, dtype=torch.float64), torch.zeros((), dtype=torch.float64)
        self.saved = time.monotonic()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.optimizer

    def on_fit_start(self) -> None:
        self.batches.rank, self.batches.world = self.trainer.global_rank, self.trainer.world_size
        self.samples.to(self.device)
        self.totals, self.count = self.totals.to(self.device), self.count.to(self.device)

    def on_train_start(self) -> None:
        self.on_train_epoch_start()  # which Lightning does not call where a run goes on within an epoch

    def on_train_epoch_start(self) -> None:
        if self.before_epoch:
            self.before_epoch(self.batches.done // len(self.batches))

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        del device, dataloader_idx
        return batch  # the samples are on the device already, or go there once they are made

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        del batch_idx
        self.batches.done = batch.number + 1
        world, rank = self.trainer.world_size, self.trainer.global_rank
        seed = self.batches.seed * 1_000_003 + batch.number * world + rank
        torch.default_generator.manual_seed(seed)  # torch.manual_seed takes milliseconds, for devices that are not used
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)
        for (group, key), value in self.values.items():
            self.optimizer.param_groups[group][key] = value(batch.number)
        if batch.number % self.log_every == 0:
            self.flips.begin()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        del batch_idx
        y = self.samples.targets(batch)
        outputs = outputs_of(self.model, self.samples.inputs(batch))
        loss = summed(self.loss, outputs, y)
        self.totals[0] += loss.detach() * len(y)
        if self.samples.classes:
            self.totals[1] += (outputs[-1].detach().argmax(1) == y).sum()
        self.count += len(y)
        return loss

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        del batch_idx
        if batch.number % self.log_every == 0:
            loss = self._finite(self._mean(outputs["loss"]))
            row = {"epoch": batch.epoch + 1, "step": batch.number + 1, "loss": loss}
            self._keep("step", self.steps, row | self.flips.end())
            late = time.monotonic() - self.saved > CHECKPOINT_SECONDS
            if self.checkpoint and self.trainer.strategy.broadcast(late):
                self._save()

    def on_train_epoch_end(self) -> None:
        epoch = self.current_epoch + 1
        totals, count = self._mean(self.totals), self._mean(self.count).item()
        row = {"epoch": epoch, "step": self.batches.done, "loss": self._finite(totals[0]) / count}
        if self.samples.classes:
            row["training_accuracy"] = totals[1].item() / count
        self.totals, self.count = torch.zeros_like(self.totals), torch.zeros_like(self.count)
        flips = [row["flips"] for row in self.steps if row["epoch"] == epoch]
        if flips:
            row |= {"flips": sum(flips) / len(flips)}
        row |= {f"density/{path}" if path else "density": bits for path, bits in weight_density(self.model).items()}
        row |= {key: float(self.optimizer.param_groups[group][key]) for group, key in self.values}
        self._keep("epoch", self.epochs, row | self.evaluate())
        if self.checkpoint:
            self._save()
        if self.after_epoch:
            self.after_epoch(self)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["about"] = dict(self.about or {})
        checkpoint["done"] = self.batches.done
        checkpoint["observed"] = [self.epochs, self.steps]
        checkpoint["totals"] = [self._mean(self.totals), self._mean(self.count)]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.batches.done = checkpoint["done"]
        self.epochs, self.steps = checkpoint["observed"]
        self.totals, self.count = (total.to(self.totals.device) for total in checkpoint["totals"])

    def _save(self) -> None:
        self.saved = time.monotonic()
        self.trainer.save_checkpoint(str(self.checkpoint))

    def _mean(self, value: Tensor) -> Tensor:
        """The mean over all processes."""
        mean = self.trainer.strategy.reduce(value.clone(), reduce_op="mean")
        assert isinstance(mean, Tensor)
        return mean

    def _finite(self, loss: Tensor) -> float:
        if not torch.isfinite(loss):
            raise ModelError.of(
                "E0702",
                f"the loss became {loss.item()} in epoch {self.current_epoch + 1}",
                remedy="lower the rate of the real parameters, and look for values that are not finite in the data",
            )
        return loss.item()

    def _keep(self, kind: str, rows: list[Row], row: Row) -> None:
        rows.append(row)
        shown = {f"{kind}/{key}": value for key, value in row.items() if key != "step"}
        for logger in self.loggers:
            logger.log_metrics(shown, int(row["step"]))
