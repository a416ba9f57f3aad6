"""The ops at the end of a network, which a Graph has as outputs and a Program as steps."""

from dataclasses import dataclass

import numpy as np

from bnncc.graph import Output
from bnncc.scalar import ROUGH, apply_steps
from bnncc.tensor import Array, Elem, Op, Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Store(Op):
    """Write one output to the result: int8 for bits, int32 for accumulators, float once it has steps."""

    output: Output
    as_float: bool = False

    @property
    def result_type(self) -> str:
        if self.output.steps or self.as_float or self.x.elem is Elem.F32:
            return "float"
        return "int8_t" if self.x.elem is Elem.BIN else "int32_t"

    @property
    def exact(self) -> bool:
        return not any(s.operation in ROUGH for s in self.output.steps)

    def evaluate(self, x: Array, *_: Array) -> Array:
        return apply_steps(x, self.output.steps) if self.output.steps or self.as_float else x


@dataclass(frozen=True, kw_only=True, eq=False)
class Classify(Op):
    """The index of the largest logit, the first of equals."""

    output: Output

    def evaluate(self, x: Array, *_: Array) -> Array:
        return np.asarray(x.reshape(len(x), -1).argmax(axis=1)).reshape(-1, 1, 1, 1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Decide(Op):
    """An early exit: stop if the entropy of softmax(logits) is below the context's threshold (the last one always stops).

    Saeed, Binary Early-Exit Network for Adaptive Inference on Low-Resource Devices, algorithm 1.
    """

    output: Output
    exit: int
    last: bool

    def evaluate(self, x: Array, *_: Array) -> Array:
        return entropy(x.reshape(len(x), -1)).reshape(-1, 1, 1, 1)


def entropy(logits: Array) -> Array:
    """Entropy in nats of softmax over the last axis, in float64."""
    d = logits.max(axis=-1, keepdims=True).astype(np.float64) - logits.astype(np.float64)
    e = np.exp(-d)
    total = e.sum(axis=-1)
    return np.asarray(np.log(total) + (e * d).sum(axis=-1) / total)


def result_tensor(name: str, size: int) -> Tensor:
    """A stand-in for a place in the result, which is no tensor of the arena."""
    return Tensor(name, Elem.F32, (size, 1, 1))
