"""A model under mutation, and the list of what can be done to it.

A mutation is a function of a Draft, listed by `@mutation(weight)`; it raises Unfit where the model has nothing for it.
"""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto as T
from onnx import numpy_helper as nh

INTS = (
    0, 1, -1, 2, 3, 4, 5, 7, 8, 9, 16, 31, 32, 33, 63, 64, 65, 127, 128, 255, 256, 1000, 65535, 65536, 1 << 20, 10**9,
    2**31 - 1, 2**31, -(2**31), 2**32, 2**53, 2**62, 2**63 - 1, -(2**63),
)  # fmt: skip
SMALL = (0, 1, -1, 2, 3, 4, 1, 2)
FLOATS = (
    0.0, -0.0, 1.0, -1.0, 0.5, 2.0, 0.1, 1e-45, -1e-45, 1e-38, 1e-7, 1e-5, 16777216.0, 1e30, 3.4e38, -3.4e38,
    math.inf, -math.inf, math.nan,
)  # fmt: skip
NAMES = (
    "", " ", "x", "int", "class", "NULL", "main", "step", "exit", "input", "INPUT", "class_index", "entropy", "logits", "9", "a.b",
    "a/b", 'a "quoted" name', "'", "new\nline\r", "*/ int x; /*", "*\\", "back \\", "??/ ??'", "// \\", "#include",
    "{{ jinja }} {% endraw %}", "%s%n", "ünïcödé 網", "\U0001f600", "\u202e right to left", "\x07\x1b[31m", "\x00", "x" * 3000, "a#acc",
    "a#step0", "t1@unpooled", "__proto__", "\u2028", "_", "t2", "c0",
)  # fmt: skip
DOMAINS = (
    "",
    "ai.onnx",
    "ai.onnx.ml",
    "com.microsoft",
    "qonnx.custom_op.general",
    "own",
    "ai.onnx.preview.training",
    "\n",
)
TYPES = [t for t in T.DataType.values() if t != T.UNDEFINED]
LIMIT = 1 << 20  # bytes of one draft: a duplication of everything may not grow for ever


class Unfit(Exception):
    """The model has nothing that this mutation could change."""


@dataclass
class Draft:
    """A model under mutation, the other files of its folder, and what was done."""

    rng: random.Random
    model: onnx.ModelProto
    options: dict[str, Any]
    files: dict[str, bytes] = field(default_factory=dict)  # beside the model
    links: dict[str, str] = field(default_factory=dict)  # symbolic links beside the model
    history: list[str] = field(default_factory=list)

    @property
    def graph(self) -> onnx.GraphProto:
        return self.model.graph

    def pick(self, options: Any) -> Any:
        options = list(options)
        if not options:
            raise Unfit
        return self.rng.choice(options)

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def node(self) -> onnx.NodeProto:
        return self.pick(self.graph.node)

    def values(self) -> list[str]:
        """The names of all values of the graph, in order."""
        made = [o for n in self.graph.node for o in n.output]
        return [*(i.name for i in self.graph.input), *(t.name for t in self.graph.initializer), *made]

    def fresh(self) -> str:
        return f"m{self.rng.randrange(1 << 30)}"

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        name = self.fresh()
        with np.errstate(all="ignore"):
            self.graph.initializer.append(nh.from_array(np.asarray(value, dtype), name))
        return name

    def integer(self) -> int:
        return self.rng.choice(INTS) if self.chance(0.8) else self.rng.randrange(-(1 << 40), 1 << 40)

    def real(self) -> float:
        return self.rng.choice(FLOATS) if self.chance(0.7) else self.rng.uniform(-300, 300)


Mutation = Callable[[Draft], None]
MUTATIONS: dict[str, tuple[Mutation, int]] = {}


def mutation(weight: int) -> Callable[[Mutation], Mutation]:
    def add(f: Mutation) -> Mutation:
        MUTATIONS[f.__name__] = f, weight
        return f

    return add


def mutate(draft: Draft) -> None:
    """One to a few mutations, most often one: what is otherwise valid goes furthest."""
    names = list(MUTATIONS)
    weights = [w for _, w in MUTATIONS.values()]
    wanted = draft.rng.choice((1, 1, 1, 1, 1, 2, 2, 4))
    for _ in range(40):
        name = draft.rng.choices(names, weights)[0]
        try:
            MUTATIONS[name][0](draft)
            draft.history.append(name)
        except (
            Unfit,
            DecodeError,
            ValueError,
            TypeError,
            OverflowError,
            LookupError,
        ):  # protobuf refuses some values by itself
            continue
        if len(draft.history) >= wanted or draft.model.ByteSize() > LIMIT:
            return


def array(t: onnx.TensorProto) -> np.ndarray:
    """A copy of the values, if there are any to be read in the file itself."""
    if t.data_location == T.EXTERNAL:
        raise Unfit
    try:
        return nh.to_array(t).copy()
    except Exception:  # whatever an earlier mutation has left
        raise Unfit from None
