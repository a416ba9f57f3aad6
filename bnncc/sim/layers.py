"""Layers of every kernel and many shapes, for fitting costs: graphs whose layers all read one input or its signs."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from bnncc.graph import Exits, Graph, Output
from bnncc.ops import (
    Combine,
    Concat,
    Conv,
    Map,
    MaxPool,
    Normalize,
    NormSign,
    Pad,
    Reshape,
    Slice,
    Softmax,
    SumPool,
    Threshold,
    Transpose,
    Upsample,
)
from bnncc.scalar import UNARY, Cut, Operand, Step, step
from bnncc.tensor import Elem, Op, Tensor

ELEMS = {Elem.U8: (0, 255), Elem.I8: (-128, 127), Elem.F32: (0, 0)}


@dataclass
class Layers:
    """A graph under construction: layers that all read one input (or its signs), each stored as an output."""

    rng: np.random.Generator
    elem: Elem
    shape: tuple[int, int, int]
    ops: list[Op] = field(default_factory=list)
    outputs: list[Output] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.input = Tensor("x", self.elem, self.shape, *ELEMS[self.elem])

    def new(self, elem: Elem, shape: tuple[int, int, int]) -> Tensor:
        return Tensor(f"t{len(self.ops)}", elem, shape, -1, 1)

    def cut(self, channels: int, middle: int = 0) -> Cut:
        kind = np.float32 if self.elem is Elem.F32 else np.int64
        return Cut(middle + self.rng.integers(-4, 5, (1, channels)).astype(kind), np.zeros((1, channels), bool))

    def add(self, op: Op, *, output: bool = True) -> Tensor:
        self.ops.append(op)
        if output:
            self.outputs.append(Output(op.y.name, (1, *op.y.shape), op.y))
        return op.y

    def binary(self, density: float = 0.5) -> Tensor:
        """The input's signs, about this share of them +1."""
        cut = self.cut(self.shape[0], round(256 * (1 - density)) - 128 * (self.elem is not Elem.U8))
        return self.add(Threshold(x=self.input, y=self.new(Elem.BIN, self.shape), cut=cut), output=False)

    def conv(
        self,
        x: Tensor,
        out: int,
        kernel: int,
        *,
        pad: int = 0,
        stride: int = 1,
        pad_value: int = 0,
        bits: bool = True,
        groups: int = 1,
        storage: str = "",
        order: str = "conv",
        density: float = 0.5,
    ) -> Tensor:
        """A convolution with a square kernel; kernel 0: one that covers all of x. With a `storage` its weights are real."""
        k = (kernel, kernel) if kernel else x.shape[1:]
        size = [(n + 2 * pad - s) // stride + 1 for n, s in zip(x.shape[1:], k, strict=True)]
        real = x.elem is Elem.F32 or bool(storage)
        y = self.new(Elem.BIN if bits else Elem.F32 if real else Elem.I32, (out, size[0], size[1]))
        shape = (out, x.shape[0] // groups, *k)
        signs: NDArray[np.int8] = self.rng.choice(np.array([-1, 1], np.int8), shape)
        reals: NDArray[np.float32] = self.rng.integers(-127, 128, shape).astype(np.float32) / np.float32(128)
        cut = self.cut(out)
        return self.add(
            Conv(
                x=x,
                y=y,
                kernel=k,
                strides=(stride, stride),
                pads=(pad, pad, pad, pad),
                weight=reals if storage else signs,
                groups=groups,
                pad_value=pad_value,
                zero=(128,) * x.shape[0] if x.elem is Elem.U8 and not storage else (),
                cut=replace(cut, levels=cut.levels.astype(np.float32)) if bits and real else cut if bits else None,
                storage=storage or "f32",
                scales=(1 / 128,) * out if storage == "i8" else (),
                order=order,
                density=density,
            )
        )

    def pool(self, x: Tensor, kernel: int, stride: int, pad: int = 0, *, least: bool = False) -> None:
        """Maxima; with `least` minima in every other channel."""
        y = self.new(x.elem, (x.shape[0], *pooled(x, kernel, stride, pad)))
        minimum = tuple(k % 2 == 1 for k in range(x.shape[0])) if least else ()
        self.add(MaxPool(x=x, y=y, kernel=(kernel, kernel), strides=(stride, stride), pads=(pad,) * 4, minimum=minimum))

    def sum(self, x: Tensor, order: str = "rows") -> None:
        y = self.new(Elem.F32 if x.elem is Elem.F32 else Elem.I32, (x.shape[0], 1, 1))
        self.add(SumPool(x=x, y=y, kernel=x.shape[1:], order=order))

    def window_sum(self, x: Tensor, kernel: int, stride: int, pad: int = 0) -> None:
        y = self.new(Elem.F32 if x.elem is Elem.F32 else Elem.I32, (x.shape[0], *pooled(x, kernel, stride, pad)))
        self.add(SumPool(x=x, y=y, kernel=(kernel, kernel), strides=(stride, stride), pads=(pad,) * 4))

    def moves(self, x: Tensor) -> None:
        """Every kind of move of an image."""
        c, height, width = x.shape
        self.add(Slice(x=x, y=self.like(x, (c, height // 2, width)), start=(0, 0, 0), step=(1, 2, 1)))
        self.add(Slice(x=x, y=self.like(x, (c // 2, height, width)), start=(c // 4, 0, 0)))
        self.add(Pad(x=x, y=self.like(x, (c, height + 2, width + 1)), before=(0, 1, 0), value=1))
        self.add(Reshape(x=x, y=self.like(x, (x.size, 1, 1))))
        self.add(Reshape(x=x, y=self.like(x, (height, c, width))))
        self.add(Transpose(x=x, y=self.like(x, (width, c, height)), axes=(2, 0, 1)))
        self.add(Transpose(x=x, y=self.like(x, (c, width, height)), axes=(0, 2, 1)))
        self.add(Upsample(x=x, y=self.like(x, (c, 2 * height, 2 * width)), factors=(2, 2)))
        self.add(Concat(x=x, others=(x,), y=self.like(x, (2 * c, height, width))))
        self.add(Concat(x=x, others=(x, x), y=self.like(x, (3 * c, height, width))))

    def like(self, x: Tensor, shape: tuple[int, int, int]) -> Tensor:
        """A new tensor of x's type."""
        return replace(self.new(x.elem, shape), lo=x.lo, hi=x.hi)

    def combine(self, terms: Sequence[Tensor]) -> Tensor:
        factors = tuple(1 + k for k in range(len(terms)))
        y = self.new(Elem.I32, terms[0].shape)
        return self.add(Combine(x=terms[0], others=tuple(terms[1:]), y=y, factors=factors, offset=(3,) * y.shape[0]))

    def norms(self, x: Tensor, *, features: bool) -> None:
        """Normalisations over pixels or features; of integers also the sign of one."""
        self.add(Normalize(x=x, y=self.new(Elem.F32, x.shape), epsilon=1e-5, features=features))
        if x.elem.is_integer:
            rho = self.rng.normal(size=(x.shape[0], 1, 1)).astype(np.float32)
            for falling in (rho > 9, rho > 1):
                y = self.new(Elem.BIN, x.shape)
                self.add(NormSign(x=x, y=y, epsilon=1e-5, features=features, rho=rho, falling=falling))

    def map(self, x: Tensor, operations: Sequence[str], *, to: Elem = Elem.F32) -> Tensor:
        """Arithmetic with constants; "operand" adds x itself."""
        constants = {o: self.rng.uniform(0.5, 2, x.shape[0]) for o in operations}
        steps = tuple(
            Operand("add", 0) if o == "operand" else Step(o) if o in UNARY else step(o, constants[o])
            for o in operations
        )
        others = (x,) if "operand" in operations else ()
        return self.add(Map(x=x, others=others, y=self.new(to, x.shape), steps=steps))

    def store(self, x: Tensor, operations: Sequence[str]) -> None:
        """Another output of x, after some arithmetic."""
        constants = {o: self.rng.uniform(0.5, 2, x.shape[0]) for o in operations}
        steps = tuple(Step(o) if o in UNARY else step(o, constants[o]) for o in operations)
        self.outputs.append(Output(f"{x.name}_{len(self.outputs)}", (1, *x.shape), x, steps))

    def graph(self, exits: Exits | None = None) -> Graph:
        return Graph(self.input, tuple(self.ops), tuple(self.outputs), exits)


def pooled(x: Tensor, kernel: int, stride: int, pad: int) -> tuple[int, int]:
    """Height and width of what a square window makes of x."""
    h, w = ((n + 2 * pad - kernel) // stride + 1 for n in x.shape[1:])
    return h, w


def programs(rng: np.random.Generator) -> Iterator[tuple[Graph, str | None]]:
    """The layers to measure, many to a program, with the kernel to force."""
    yield from binary_programs(rng)
    yield from sparse_programs(rng)
    yield from quad_programs(rng)
    yield from lut_programs()
    yield from depthwise_programs(rng)
    yield from value_programs(rng)
    yield from real_programs(rng)
    yield from moving_programs(rng)
    yield from normalising_programs(rng)
    yield from output_programs(rng)


def binary_programs(rng: np.random.Generator) -> Iterator[tuple[Graph, str | None]]:
    sizes = ((4, 6, 7), (8, 8, 8), (12, 9, 5), (16, 8, 8), (24, 6, 6), (32, 8, 8), (50, 6, 7), (64, 6, 6), (96, 8, 8))
    for shape in (*sizes, (128, 6, 6), (200, 4, 5), (256, 5, 5)):
        g = Layers(rng, Elem.U8, shape)
        x = g.binary()
        g.conv(x, 32, 3, pad=1)
        g.conv(x, 40, 3, bits=False)
        g.conv(x, 16, 3, pad=1, stride=2)
        g.conv(g.conv(x, 100, 1), 20, 3)  # long patches in every program, or gcc leaves out the code for them
        g.conv(x, 64, 2)
        g.conv(x, 10, 3, pad=1, pad_value=-1)
        g.conv(x, 3, 1, bits=False)
        if shape[0] < 100:
            g.conv(x, 24, 5, pad=2)
            g.conv(x, 32, 4)
        g.pool(x, 2, 2)
        g.pool(x, 3, 2, 1)
        g.pool(x, 3, 1)
        g.pool(x, 2, 2, least=True)
        g.pool(x, 3, 2, 1, least=True)
        g.sum(x)
        yield g.graph(), "binary_conv"
    for shape in (
        (32, 1, 1),
        (64, 1, 1),
        (96, 1, 1),
        (224, 1, 1),
        (256, 1, 1),
        (500, 1, 1),
        (1024, 1, 1),
        (64, 3, 3),
        (32, 5, 5),
    ):
        g = Layers(rng, Elem.I8, shape)
        x = g.binary()
        for out, bits in ((10, False), (32, True), (100, True), (128, False)):
            g.conv(x, out, 0, bits=bits)
        g.conv(g.conv(g.conv(x, 300, 0), 40, 0), 20, 0)  # long and short rows in each program, as gcc omits the rest
        yield g.graph(), "binary_dense"


def sparse_programs(rng: np.random.Generator) -> Iterator[tuple[Graph, str | None]]:
    """Convolutions of bits of several densities."""
    shapes = ((3, 12, 12), (16, 8, 8), (32, 8, 8), (50, 6, 7), (64, 6, 6), (128, 6, 6), (200, 4, 5), (256, 4, 4))
    for shape in (*shapes, (64, 1, 1), (500, 1, 1), (1024, 1, 1)):
        for density in (0.35, 0.9):
            g = Layers(rng, Elem.U8, shape)
            x = g.binary(density)
            if shape[1] == 1:
                for out, bits in ((32, True), (100, True), (256, True), (40, False)):
                    g.conv(x, out, 0, bits=bits, density=density)
            else:
                g.conv(x, 32, 3, pad=1, density=density)
                g.conv(x, 40, 3, bits=False, density=density)
                g.conv(x, 4, 1, bits=False, density=density)
                g.conv(x, 128, 1, density=density)
                g.conv(x, 64, 3, pad=1, stride=2, density=density)
                g.conv(x, 128, 3, pad=1, density=density)
                if shape[0] % 64 == 0:
                    g.conv(x, 128, 3, pad=1, groups=2, density=density)
                g.conv(x, 24, 0, density=density)
            copies = ("sbs_conv_ram", "sbs_conv_blocks") if density < 0.5 and shape[1] > 1 else ()
            for kernel in ("sbs_conv", "sbs_vector", *copies):
                yield g.graph(), kernel


def quad_programs(rng: np.random.Generator) -> Iterator[tuple[Graph, str | None]]:
    """First layers."""
    for elem, shape in ((Elem.U8, (1, 14, 14)), (Elem.U8, (3, 10, 10)), (Elem.I8, (2, 9, 8)), (Elem.U8, (6, 7, 7))):
        g = Layers(rng, elem, shape)
        for out, kernel, stride in (
            (16, 3, 1),
            (32, 3, 1),
            (128, 3, 1),
            (64, 3, 2),
            (20, 5, 1),
            (64, 2, 1),
            (40, 5, 2),
        ):
            if shape[0] * kernel**2 < 100:
                g.conv(g.input, out, kernel, pad=kernel // 2, stride=stride)
        g.conv(g.input, 32, 3)
        for forced in ("quad_conv", "quad_conv_ram"):
            yield g.graph(), forced


def lut_programs() -> Iterator[tuple[Graph, str | None]]:
    """Convolutions of bits whose rows fill the lanes, and such that leave some idle."""
    rng = np.random.default_rng(6)
    for shape in (
        (3, 12, 12),
        (16, 16, 8),
        (32, 16, 6),
        (50, 12, 7),
        (64, 8, 8),
        (100, 20, 4),
        (128, 16, 4),
        (200, 7, 6),
    ):
        g = Layers(rng, Elem.U8, shape)
        x = g.binary()
        g.conv(x, 32, 3, pad=1)
        g.conv(x, 100, 1)
        g.conv(x, 40, 3, pad=1, pad_value=-1)
        g.conv(x, 64, 3, pad=1, stride=2)
        g.conv(x, 20, 2)
        g.conv(x, 96, 3)
        g.conv(x, 48, 3, pad=1, bits=False)
        g.conv(x, 100, 1, bits=False)
        if shape[0] < 100:
            g.conv(x, 24, 5, pad=2)
        yield g.graph(), "lut_conv"


def depthwise_programs(rng: np.random.Generator) -> Iterator[tuple[Graph, str | None]]:
    for shape in ((8, 8, 8), (24, 6, 6), (64, 6, 6), (128, 8, 8)):
        g = Layers(rng, Elem.U8, shape)
        x = g.binary()
        for kernel in (2, 3, 5):
            g.conv(x, shape[0], kernel, pad=kernel // 2, groups=shape[0])
            g.conv(x, shape[0], kernel, groups=shape[0], bits=False)
        g.conv(x, shape[0], 3, pad=1, stride=2, groups=shape[0])
        yield g.graph(), "depthwise_conv"


def value_programs(rng: np.random.Generator) -> Iterator[tuple[Graph, str | None]]:
    images = (
        (Elem.U8, (1, 12, 12)),
        (Elem.U8, (3, 8, 8)),
        (Elem.I8, (2, 9, 8)),
        (Elem.I8, (40, 1, 1)),
        (Elem.U8, (6, 7, 7)),
    )
    for elem, shape in (
        *images,
        (Elem.F32, (1, 9, 9)),
        (Elem.F32, (3, 7, 7)),
        (Elem.F32, (30, 1, 1)),
        (Elem.F32, (8, 6, 6)),
    ):
        wide = shape[1] > 1
        for forced in ("value_conv",) if elem is Elem.F32 else ("table_conv", "value_conv"):
            g = Layers(rng, elem, shape)
            for out, kernel, bits in ((16, 3, True), (32, 3, False), (50, 5, True), (8, 4, True), (10, 1, False)):
                if kernel > 1 if wide else kernel == 1:
                    g.conv(g.input, out, kernel, pad=kernel // 2, bits=bits)
                    g.conv(g.input, 12, kernel, stride=2 if wide else 1)
            g.conv(g.input, 20, 0)
            if forced == "value_conv":
                g.binary()
                if wide:
                    g.sum(g.input)
                    g.sum(g.input, "lanes")
                    g.sum(g.input, "reduce")
                    g.window_sum(g.input, 2, 2)
                    g.window_sum(g.input, 3, 1, 1)
                    g.pool(g.input, 2, 2)
                    g.pool(g.input, 3, 1, 1)
                    g.pool(g.input, 3, 2)
            yield g.graph(), forced
    shapes = ((3, 7, 7), (20, 4, 4), (32, 6, 6), (8, 6, 6), (50, 1, 1), (32, 6, 6), (64, 5, 5))
    for elem, shape in zip((Elem.I8, Elem.U8, Elem.I8, *[Elem.F32] * 4), shapes, strict=True):
        g = Layers(rng, elem, shape)
        g.map(g.input, ("mul", "add"))
        g.map(g.input, ("sub", "div", "max", "min"))
        g.map(g.input, ("rsub",))
        g.map(g.input, ("operand", "max"))
        g.map(g.input, ("operand", "mul", "operand"))
        g.map(g.input, ("div", "round", "max", "min"), to=Elem.I8)
        g.map(g.input, ("mul", "floor"))
        g.map(g.input, ("mul", "tanh"))
        g.map(g.input, ("mul", "sigmoid"))
        x = g.binary()
        g.map(x, ("mul", "add"))
        g.add(
            Threshold(
                x=x,
                y=g.new(Elem.BIN, shape),
                cut=Cut(g.rng.integers(-1, 2, (1, shape[0])), np.zeros((1, shape[0]), bool)),
            )
        )
        yield g.graph(), None


def real_programs(rng: np.random.Generator) -> Iterator[tuple[Graph, str | None]]:
    """Real weights in each storage, in every order of sums; groups."""
    for elem, shape in ((Elem.F32, (3, 8, 8)), (Elem.F32, (16, 5, 5)), (Elem.U8, (6, 6, 6)), (Elem.F32, (64, 1, 1))):
        g = Layers(rng, elem, shape)
        for storage in ("f32", "f16", "i8"):
            if shape[1] > 1:
                g.conv(g.input, 10, 3, pad=1, bits=False, storage=storage)
                g.conv(g.input, 8, 3, stride=2, storage=storage)
                g.conv(g.input, 12, 1, bits=False, storage=storage)
            for order in ("conv", "packed", "rows"):
                g.conv(g.input, 10, 0, bits=False, storage=storage, order=order)
        if shape[1] > 1:
            g.conv(g.input, shape[0], 3, pad=1, groups=shape[0], bits=False, storage="f32")
            g.conv(g.input, shape[0], 3, groups=shape[0], storage="f32")
        yield g.graph(), "real_conv"
    for elem, shape in ((Elem.F32, (6, 6, 6)), (Elem.F32, (60, 2, 2)), (Elem.U8, (8, 7, 7)), (Elem.F32, (300, 1, 1))):
        g = Layers(rng, elem, shape)
        for order in ("packed", "rows", "columns"):
            g.conv(g.input, 10, 0, bits=False, order=order)
        if shape[1] > 2:
            g.conv(g.input, shape[0], 3, pad=1, groups=shape[0], bits=False)
            g.conv(g.input, shape[0], 3, pad=1, groups=2)
        yield g.graph(), "value_conv"
    for shape in ((8, 8, 8), (24, 6, 6), (64, 5, 5), (96, 4, 4)):
        g = Layers(rng, Elem.U8, shape)
        x = g.binary()
        for groups in (2, 4, shape[0]):
            g.conv(x, shape[0], 3, pad=1, groups=groups)
            g.conv(x, 2 * shape[0], 3, groups=groups, bits=False)
        g.conv(x, shape[0], 2, groups=4, bits=False)  # rows of three words, if of 96 channels
        g.conv(x, shape[0], 3, pad=1, pad_value=1, groups=2)
        g.conv(x, 2 * shape[0], 0, groups=2)
        yield g.graph(), "grouped_conv"


def moving_programs(rng: np.random.Generator) -> Iterator[tuple[Graph, str | None]]:
    shapes = ((4, 6, 6), (10, 5, 6), (40, 4, 4), (64, 4, 6), (37, 4, 4), (21, 5, 6))
    for elem, shape in zip((Elem.I8, Elem.F32, Elem.U8, Elem.U8, Elem.U8, Elem.I8), shapes, strict=True):
        for forced in ("move", None):
            g = Layers(rng, elem, shape)
            x = g.binary()
            g.moves(x)
            if forced:
                g.moves(g.map(g.input, ("min",), to=elem))
                y = g.add(Concat(x=x, others=(g.input,), y=g.new(Elem.I32, (2 * shape[0], *shape[1:]))))
                wide = g.combine([g.input]) if elem is not Elem.F32 else g.map(g.input, ("mul",))
                g.add(Concat(x=wide, others=(g.input,), y=g.like(wide, y.shape)))
                for read in (x, g.input):
                    g.window_sum(read, 2, 2)
                    g.window_sum(read, 3, 1, 1)
                if elem is not Elem.F32:
                    g.combine([g.input, y_part(g, y, shape[0]), x])
                    g.combine([x, x])
                    g.combine([wide, wide])
                    g.combine([g.input] * 3)
            yield g.graph(), forced or "move_pixels"


def y_part(g: Layers, y: Tensor, channels: int) -> Tensor:
    """The last channels of y."""
    start = (y.shape[0] - channels, 0, 0)
    return g.add(Slice(x=y, y=g.like(y, (channels, *y.shape[1:])), start=start), output=False)


def normalising_programs(rng: np.random.Generator) -> Iterator[tuple[Graph, str | None]]:
    shapes = ((5, 4, 4), (12, 5, 5), (40, 3, 3), (100, 1, 1), (256, 1, 1), (500, 1, 1), (24, 5, 5))
    for elem in (Elem.I8, Elem.F32):
        for shape in shapes:
            g = Layers(rng, elem, shape)
            for features in (False, True):
                g.norms(g.input, features=features)
                g.norms(g.binary(), features=features)
            for log in (False, True):
                logits = g.map(g.input, ("mul",))
                g.add(Softmax(x=logits, y=g.new(Elem.F32, shape), log=log))
            yield g.graph(), None


def output_programs(rng: np.random.Generator) -> Iterator[tuple[Graph, str | None]]:
    for elem, shape in ((Elem.I8, (10, 1, 1)), (Elem.F32, (40, 1, 1)), (Elem.U8, (100, 1, 1)), (Elem.F32, (16, 1, 1))):
        g = Layers(rng, elem, shape)
        g.store(g.binary(), ())
        for operations in ((), ("mul", "add"), ("add", "max"), ("div",), ("mul", "sub", "min"), ("mul", "round")):
            g.store(g.input, operations)
        for operation in ("tanh", "sigmoid"):
            g.store(g.input, ("mul", operation))
        yield g.graph(), None
    for classes in (2, 5, 10, 20, 100):
        for bits in (Elem.I8, Elem.F32):
            g = Layers(rng, bits, (classes, 1, 1))
            g.outputs.append(Output("logits", (1, classes), g.input))
            yield g.graph(), None
    g = Layers(rng, Elem.I8, (16, 1, 1))
    for classes in (2, 3, 5, 10, 20, 40, 100):
        y = g.conv(g.input, classes, 1, bits=False)
        g.outputs[-1] = Output(y.name, (1, classes), y, (step("mul", 0.01),))  # logits of a usual size
    yield g.graph(Exits(tuple(range(len(g.outputs))), 0.0)), None
