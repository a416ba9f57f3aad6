"""A small training loop: Bop for the binary weights, Adam for the rest."""

import io
import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.nn import functional

from bnncc.errors import ModelError, UsageError
from bnncc.files import write_whole
from bnncc.train.bop import Bop
from bnncc.train.data import Images
from bnncc.train.layers import binary_parameters, real_parameters


@dataclass(frozen=True)
class Settings:
    """How to train. Over the run gamma falls exponentially to `gamma * gamma_decay`, and Adam's rate linearly to 0."""

    epochs: int
    batch_size: int
    gamma: float
    gamma_decay: float
    tau: float = 1e-6
    adam_rate: float = 1e-2
    seed: int = 0


_Part = nn.Module | torch.optim.Optimizer


@dataclass(frozen=True)
class Epoch:
    """What an epoch gave: the mean training loss, and the accuracy of each exit on the held-out images (0..1)."""

    loss: float
    accuracy: tuple[float, ...]


def logits(model: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    """The model's outputs, as a tuple also where there is but one."""
    outputs = model(x)
    return outputs if isinstance(outputs, tuple) else (outputs,)


def train(
    model: nn.Module,
    data: Images,
    held_out: Images,
    settings: Settings,
    *,
    checkpoint: Path | None = None,
    show: bool = True,
) -> list[Epoch]:
    """Train `model` in place, on the sum of its exits' cross-entropies, and leave it in eval mode. Returns every epoch.

    Nothing depends on `held_out`: the accuracy on these images is only shown and returned.
    The settings and the initial weights determine the outcome (on one machine with one number of threads). With
    `checkpoint` the state is kept in that file after each epoch, and a run that finds the file goes on from there.

    Raises:
        ModelError: E0702 the loss is no longer finite.
        UsageError: E0703 the checkpoint is of another model or other settings.
        ToolError: E0509 the checkpoint cannot be written.
    """
    x, y = torch.tensor(data.x), torch.tensor(data.y)
    bop = Bop(binary_parameters(model), settings.gamma, settings.tau)
    adam = torch.optim.Adam(real_parameters(model), settings.adam_rate)
    parts = (model, bop, adam)
    history = _resume(checkpoint, settings, parts)
    batches = math.ceil(len(y) / settings.batch_size)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) if show else nullcontext() as progress:
        bar = progress.add_task("training", total=settings.epochs * batches) if progress else None
        for epoch in range(len(history), settings.epochs):
            model.train()
            order = torch.randperm(len(y), generator=torch.Generator().manual_seed(settings.seed * 1_000_003 + epoch))
            total = 0.0
            for number, rows in enumerate(torch.split(order, settings.batch_size)):
                done = (epoch + number / batches) / settings.epochs
                bop.param_groups[0]["gamma"] = settings.gamma * settings.gamma_decay**done
                adam.param_groups[0]["lr"] = settings.adam_rate * (1 - done)
                loss = torch.stack([functional.cross_entropy(z, y[rows]) for z in logits(model, x[rows])]).sum()
                if not torch.isfinite(loss):
                    raise ModelError.of(
                        "E0702",
                        f"the loss became {loss.item()} in epoch {epoch + 1}",
                        remedy="lower Adam's rate, and look for values that are not finite in the data",
                    )
                bop.zero_grad()
                adam.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                bop.step()
                adam.step()
                total += loss.item() * len(rows)
                if progress and bar is not None:
                    progress.update(bar, completed=epoch * batches + number + 1)
            recalibrate(model, data)
            history.append(Epoch(total / len(y), accuracy(model, held_out)))
            if checkpoint is not None:
                _save(checkpoint, settings, parts, history)
            if progress and bar is not None:
                progress.update(bar, description=_describe(epoch, history[-1]))
    model.eval()
    return history


def predict(model: nn.Module, images: Images, batch_size: int = 500) -> list[Tensor]:
    """The logits of each exit, [N,classes], in eval mode (in which the model stays)."""
    model.eval()
    with torch.no_grad():
        parts = [logits(model, rows) for rows in torch.split(torch.tensor(images.x), batch_size)]
    return [torch.cat(exit_parts) for exit_parts in zip(*parts, strict=True)]


def accuracy(model: nn.Module, images: Images) -> tuple[float, ...]:
    """The share of `images` (0..1) that each exit classifies correctly, in eval mode."""
    y = torch.tensor(images.y)
    return tuple((z.argmax(1) == y).float().mean().item() for z in predict(model, images))


def recalibrate(model: nn.Module, images: Images, limit: int = 10_000, batch_size: int = 500) -> None:
    """Measure batch normalisation's statistics anew, over the first `limit` images.

    While weights flip, the running averages describe the network as it was some steps ago.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over the batches
    model.train()
    with torch.no_grad():
        for rows in torch.split(torch.tensor(images.x[:limit]), batch_size):
            model(rows)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()


def entropy(z: Tensor) -> Tensor:
    """The entropy of softmax(z) in nats: [N,classes] -> [N]."""
    log_share = functional.log_softmax(z, 1)
    return -(log_share.exp() * log_share).sum(1)


def leave(exits: Sequence[Tensor], threshold: float) -> tuple[Tensor, Tensor]:
    """The early-exit rule: each image takes the first exit whose entropy is below `threshold`, else the last one.

    Args: exits: logits of each exit, [N,classes], in order of depth; threshold: in nats.
    Returns: the class, int64 [N], and the exit, int64 [N], counted from 0.
    """
    sure = torch.stack([entropy(z) < threshold for z in exits])
    sure[-1] = True
    taken = sure.int().argmax(0)
    classes = torch.stack([z.argmax(1) for z in exits])
    return classes.gather(0, taken[None])[0], taken


def _describe(epoch: int, result: Epoch) -> str:
    shares = " ".join(f"{share:.2%}" for share in result.accuracy)
    return f"epoch {epoch + 1}: loss {result.loss:.3f}, accuracy {shares}"


def _save(path: Path, settings: Settings, parts: Sequence[_Part], history: list[Epoch]) -> None:
    buffer = io.BytesIO()
    state = {
        "settings": asdict(settings),
        "parts": [part.state_dict() for part in parts],
        "history": [asdict(epoch) for epoch in history],
    }
    torch.save(state, buffer)
    write_whole(path, buffer.getvalue())


def _resume(path: Path | None, settings: Settings, parts: Sequence[_Part]) -> list[Epoch]:
    """Load the checkpoint, if there is one; returns the epochs it holds."""
    if path is None or not path.exists():
        return []
    try:
        state: dict[str, Any] = torch.load(path, weights_only=True)
        if state["settings"] != asdict(settings):
            raise ValueError(f"it was trained with {state['settings']}")
        for part, part_state in zip(parts, state["parts"], strict=True):
            part.load_state_dict(part_state)
        return [Epoch(epoch["loss"], tuple(epoch["accuracy"])) for epoch in state["history"]]
    except Exception as error:  # torch.load and load_state_dict raise a wide variety
        raise UsageError.of(
            "E0703",
            f"the checkpoint does not fit this run: {error}",
            where=str(path),
            remedy="delete it to begin anew, or name another file",
        ) from error
