"""Families of networks: which blocks follow which, from the input to the outputs."""

import json
import math
import zlib
from collections.abc import Callable

import numpy as np
from onnx import TensorProto as T
from onnx import helper as h

from tests.nets.layers import Layers
from tests.nets.net import NEWEST_IR, Net, mixed
from tests.nets.writer import MIXED

OPSETS = tuple(range(9, 27))  # to the newest that onnxruntime reads
FAMILIES = (
    "chain",
    "residual",
    "integer",
    "growth",
    "line",
    "sequence",
    "decoder",
    "relu",
    "stem",
    "layernorm",
    "vector",
    "tf",
    "shuffle",
    "mixed",
)


def random_net(seed: int, *, family: str = "chain", max_channels: int = 100) -> Net:
    """A network of the family ("" for any), everything about it drawn at random; its layers' channels take both values."""
    for attempt in range(100):
        rng = np.random.default_rng([seed, attempt, zlib.crc32(family.encode())])
        net = RandomNet(rng, family or str(rng.choice(FAMILIES)), max_channels).build()
        if min(net.mixed(), default=0) >= MIXED:
            net.attempts = attempt + 1
            return net
    raise AssertionError(f"seed {seed}: every network saturates")


class RandomNet(Layers):
    """The choices behind `random_net`."""

    def __init__(self, rng: np.random.Generator, family: str, max_channels: int) -> None:
        super().__init__(rng)
        self.family, self.max_channels = family, max_channels

    def build(self) -> Net:
        self.nhwc = self.family == "tf" or self.chance(0.08)
        getattr(self, f"make_{self.family}")()
        net = self.net
        net.family = self.family
        net.outputs = list(dict.fromkeys(net.outputs))
        net.inlined = {c for c in net.constants if self.rng.random() < self.inline}
        if self.exits:
            net.metadata = {
                "bnncc.exits": json.dumps(net.outputs),
                "bnncc.exit_rule": "entropy",
                "bnncc.exit_threshold": str(float(self.rng.uniform(0.1, 1.5))),
            }
        return net

    # the file --------------------------------------------------------------------------------------------------------

    exits = False  # every output is an early exit
    inline = 0.0  # share of the constants that are Constant nodes

    def start(self, shape: tuple[int, ...], elem: int, holds: str = "") -> str:
        """A file with this input, and how it is written."""
        opset = int(self.pick(9, *OPSETS))  # 9 and 10 have operators of their own
        net = self.net = Net(self.rng, shape, elem, holds, opset=opset)
        net.ir = int(self.rng.integers(h.OP_SET_ID_VERSION_MAP["ai.onnx", opset], NEWEST_IR + 1))
        net.batch = self.pick("", "", "batch", "unk__6")
        net.listed, net.inferred = self.chance(0.15), self.chance(0.3)
        net.naming = self.pick("plain", "torch", "tf")
        net.bare = self.chance(0.3)
        self.inline = self.pick(0.0, 0.0, 0.3, 1.0)
        if self.chance(0.06):
            net.options["sign_at_zero"] = self.pick(-1, 1)
        if self.chance(0.15):
            net.options["real_weights"] = self.pick("f16", "i8")
        return "x"

    def image(self) -> tuple[int, ...]:
        size = [int(self.rng.integers(4, 13)) for _ in range(2)]
        return (int(self.pick(1, 2, 3, 4)), *size)

    def even(self) -> tuple[int, ...]:
        size = [int(self.pick(4, 6, 8, 8, 12)) for _ in range(2)]
        return (int(self.pick(1, 2, 3, 4)), *size)

    def input(self, shape: tuple[int, ...]) -> str:
        """The network's start: bytes or floats, normalised in one of the usual ways."""
        elem = self.pick(T.UINT8, T.UINT8, T.INT8, T.FLOAT)
        holds = self.pick("", "u8", "i8") if elem == T.FLOAT else ""
        c = shape[0]
        turned = self.nhwc and len(shape) > 1
        if turned:
            shape = (*shape[1:], c)
        x = self.start(shape, elem, holds)
        net = self.net
        if turned:
            self.last.add(x)
        if holds:
            net.options["input"] = holds
        if len(shape) == 3 and self.chance(0.3):
            net.options["input_layout"] = self.pick("nchw", "nhwc")
        if elem == T.FLOAT and not holds:
            how = self.pick("normalised", "sign", "real")
            if how == "normalised":
                return self.sign(self.norm(x))
            return self.sign(x, generic=False) if how == "sign" else x
        unsigned = elem == T.UINT8 or holds == "u8"
        how = self.pick("plain", "binary", "binary", "means", "127.5" if unsigned else "plain", "mnist", "imagenet")
        if elem != T.FLOAT:
            x = self.like(net.node("Cast", x, to=T.FLOAT), x)
        if how == "plain":
            return x
        if how == "127.5":
            return self.arith("Sub", self.arith("Div", x, 127.5), 1.0)
        if how in ("mnist", "imagenet"):
            x = self.arith("Div", x, 255.0)
            mean, std = (0.1307, 0.3081) if how == "mnist" else (self.rng.uniform(a, a + 0.1, c) for a in (0.4, 0.2))
            return self.arith("Div", self.arith("Sub", x, mean), std)
        centre = np.full(c, 128.0 if unsigned else float(self.pick(0.0, 1.0)))
        if how == "means":
            centre += self.rng.integers(-9, 9, c)
        return self.arith("Div", self.arith("Sub", x, centre), self.pick(128.0, 64.0, 1.0))

    # blocks of images ------------------------------------------------------------------------------------------------

    def plain_block(self, x: str) -> str:
        """Convolution, BatchNorm, sign, with a pool somewhere between; or an odd number of taps and a bare Sign."""
        net = self.net
        given = self.window(x)
        c, pads = self.channels(x), given.get("pads")
        odd = c * math.prod(given["kernel_shape"]) % 2 and x in self.bits and pads is not None and not any(pads)
        if odd and self.chance(0.4):
            y = self.conv(x, given, groups=1, scaled=False)
            if mixed(net.values(y)[0], 1 + self.axis(y)) >= MIXED:
                return self.sign(y)  # an odd number of -1 and +1 is never 0
            return self.cut(y)
        y = self.conv(x, given)
        place = self.pick("none", "before", "between", "after")
        kind = "MaxPool" if self.family == "chain" else self.pick("MaxPool", "MaxPool", "AveragePool")
        if place == "before":
            y = self.pool(y, kind)
        y = self.norm(y)
        if place == "between":
            y = self.pool(y, kind)
        y = self.binarize(y, generic=True)
        if place == "after":
            y = self.pool(y, kind)
        return y

    def stem(self, x: str, out: int, *, real: bool = False) -> str:
        """A convolution and a BatchNorm to begin a stream of real values."""
        return self.conv(x, self.same(x), out, groups=1, real=real, norm=True)

    def residual_block(self, x: str) -> str:
        """Bi-Real Net's x + norm(conv(sign(x))), at half the size now and then, with what ReActNet adds to it."""
        c = self.channels(x)
        b = x if x in self.bits else self.binarize(x, generic=True)
        down = min(self.size(x)) >= 4 and not any(n % 2 for n in self.size(x)) and self.chance(0.35)
        if not down:
            y = self.conv(b, self.same(b), c, groups=self.groups(c) if self.chance(0.3) else 1)
            y = self.joined(self._branch(y, x), x)
        else:
            x = self.halve(x, self.pick("AveragePool", "AveragePool", "MaxPool"))
            how = self.pick("real", "real", "binary", "twice", "same", "zeros")
            out = c if how == "same" else 2 * c if how == "twice" else self.width(9 * c)
            if out > self.max_channels:
                how, out = "same", c
            if how == "zeros":  # the shortcut's new channels are zero
                extra = self.pick(1, 2, c)
                x, out = self.more_channels(x, extra // 2, extra - extra // 2), c + extra
            stride = self.same(b, 2)
            if how == "twice":
                parts = [self.joined(self._branch(self.conv(b, stride, c, groups=1), x), x) for _ in range(2)]
                return self.concat(*parts)
            if how == "real":
                x = self.norm(self.conv(x, self.one(x), out, groups=1, real=True))
            elif how == "binary":
                x = self.norm(self.conv(self.binarize(x, generic=False), self.one(x), out, groups=1))
            y = self.joined(self._branch(self.conv(b, stride, out, groups=1), x), x)
        if self.chance(0.3):
            y = self.activation(y) if self.chance(0.5) else self.norm(self.activation(y))
        return y

    def one(self, x: str) -> dict[str, list[int]]:
        return {"kernel_shape": [1] * len(self.size(x))}

    def _branch(self, y: str, x: str) -> str:
        """What is added to the shortcut x: y normalised, and perhaps bent."""
        if self.chance(0.2):
            y = self.arith("Mul", y, self.rng.uniform(0.1, 1, self.channels(y)))
        if self.chance(0.25):
            return self.activation(self.norm(y))
        return self.norm(y, residual=x)

    def joined(self, y: str, x: str) -> str:
        return self.add(y, x)

    def integer_block(self, x: str) -> str:
        """Integers only: x + conv(sign(x)), or the sum of two binary tensors."""
        c = self.channels(x)
        b = x if x in self.bits else self.binarize(x, generic=False)
        y = self.conv(b, self.same(b), c, groups=1, scaled=False)
        if self.chance(0.4):
            return self.add(self.cut(y), b)
        if self.chance(0.2):
            z = self.conv(b, self.same(b), c, groups=1, scaled=False)
            y = self.add(y, z)
        return self.add(y, x)

    def growth_block(self, x: str) -> str:
        """DenseNet's concat(x, norm(conv(sign(x))))."""
        grown = int(self.pick(4, 8, 8, 16, self.rng.integers(1, 17)))
        b = x if x in self.bits else self.binarize(x, generic=True)
        y = self.norm(self.conv(b, self.same(b), grown, groups=1))
        return self.concat(*((x, y) if self.chance(0.7) else (y, x)))

    def melius_block(self, x: str) -> str:
        """MeliusNet: growth, and then a convolution that is added to the new channels only."""
        c = self.channels(x)
        x = self.growth_block(x)
        grown = self.channels(x) - c
        b = self.binarize(x, generic=True)
        y = self.conv(b, self.same(b), grown, groups=1)
        head, tail = self.slices(x, c)
        return self.concat(head, self.add(tail, self.norm(y, residual=tail)))

    def branches_block(self, x: str) -> str:
        """Two or three layers side by side, their bits joined."""
        b = x if x in self.bits else self.binarize(x, generic=True)
        many = self.pick(2, 2, 3)
        out = [int(self.rng.integers(1, 17)) for _ in range(many)]
        parts = [self.binarize(self.norm(self.conv(b, self.same(b), o, groups=1)), generic=True) for o in out]
        if self.chance(0.3):
            parts.append(b)
        return self.concat(*parts)

    def shuffle_block(self, x: str) -> str:
        """ShuffleNet: half of the channels pass a grouped convolution, and all are shuffled."""
        b = x if x in self.bits else self.binarize(x, generic=True)
        c = self.channels(b)
        if c % 2 or c < 4:
            return self.plain_block(b)
        keep, work = self.slices(b, self.pick(c // 2, c // 2, max(1, c // 4)))
        n = self.channels(work)
        g = self.pick(*[d for d in range(1, n + 1) if n % d == 0])
        work = self.binarize(self.norm(self.conv(work, self.same(work), n, groups=g)), generic=True)
        if self.chance(0.3):
            work = self.binarize(self.norm(self.conv(work, self.one(work), n, groups=1)), generic=True)
        y = self.concat(*((keep, work) if self.chance(0.5) else (work, keep)))
        return self.shuffle(y, self.pick(*[d for d in range(2, c) if c % d == 0]))

    def bent_block(self, x: str) -> str:
        """BinaryConnect: binary weights, a BatchNorm, ReLU or its like, a pool."""
        y = self.activation(self.norm(self.conv(x, self.same(x, self.pick(1, 1, 2)))))
        if min(self.size(y)) > 1 and self.chance(0.3):
            y = self.pool(y, self.pick("MaxPool", "AveragePool"))
        return y

    def real_block(self, x: str) -> str:
        """Real weights: an ordinary, grouped or depthwise convolution, or a fixed blur before a smaller size."""
        if min(self.size(x)) >= 4 and self.chance(0.3):
            return self.blur(x)
        c = self.channels(x)
        g = self.groups(c, depthwise=0.3, grouped=0.2) if c > 1 else 1
        y = self.conv(x, self.same(x, self.pick(1, 1, 2)), groups=g, real=True, norm=True)
        how = self.pick("none", "activation", "activation", "sign")
        if how == "activation":
            y = self.activation(y)
            return self.pool(y) if min(self.size(y)) >= 4 and self.chance(0.4) else y
        return self.binarize(y, generic=True) if how == "sign" else y

    def blur(self, x: str) -> str:
        """A depthwise binomial filter with stride 2."""
        x = self.first(x)
        c, n = self.channels(x), len(self.size(x))
        row = np.array(self.pick([1, 2, 1], [1, 1], [1, 3, 3, 1]), np.float32)
        kernel = row if n == 1 else np.outer(row, row)
        w = np.broadcast_to(kernel / kernel.sum(), (c, 1, *kernel.shape))
        half = (len(row) - 1) // 2
        y = self.net.node("Conv", x, self.const(w), group=c, strides=[2] * n, pads=[half] * (2 * n))
        return self.settle(y)

    def layernorm_block(self, x: str) -> str:
        """Convolution, LayerNorm over the channels, sign."""
        y = self.conv(x, self.same(x))
        if self.channels(y) < 2:
            return self.cut(y)
        y = self.layer_norm(y)
        if (
            self.chance(0.25)
            and self.channels(x) == self.channels(y)
            and self.size(x) == self.size(y)
            and x not in self.bits
        ):
            y = self.add(y, x)
        y = self.binarize(y, generic=True)
        return y if self.chance(0.5) else self.first(y)

    def down_up_block(self, x: str) -> str:
        """U-Net: to half the size and back, with the image from before joined or added."""
        c = self.channels(x)
        if any(n % 2 for n in self.size(x)):
            return self.plain_block(x)
        b = x if x in self.bits else self.binarize(x, generic=True)
        low = self.halve(b, "MaxPool") if self.chance(0.4) else b
        stride = 1 if low != b else 2
        low = self.binarize(self.norm(self.conv(low, self.same(low, stride), groups=1)), generic=True)
        up = self.enlarge(low)
        if self.size(up) != self.size(x) or self.chance(0.3):
            return up
        if self.chance(0.5) and c == self.channels(up) and up not in self.bits:
            return self.add(up, x)
        return self.concat(x, up) if (x in self.bits) == (up in self.bits) or self.chance(0.5) else up

    def enlarge(self, x: str) -> str:
        """To twice the size (or about): a transposed convolution, or nearest neighbours."""
        if self.chance(0.5):
            y = self.deconv(x, real=self.chance(0.15))
            return self.binarize(y, generic=True) if self.chance(0.6) else y
        if self.chance(0.2):
            x = self.norm(self.conv(x, self.same(x), groups=1))
        return self.upsample(x, [self.pick(2, 2, 2, 3, 1) if self.chance(0.2) else 2 for _ in self.size(x)])

    # blocks of vectors -----------------------------------------------------------------------------------------------

    def dense_block(self, x: str) -> str:
        """Of a vector (or of each row of a sequence): dense with BatchNorm, LayerNorm, residual or activation."""
        how = self.pick("norm", "norm", "layernorm", "residual", "bent", "bare")
        if how == "residual":
            b = x if x in self.bits else self.binarize(x, generic=True)
            y = self.dense(b, self.channels(x))
            return self.add(self.norm(y, residual=x), x)
        y = self.dense(x, norm=how in ("norm", "bent"))
        if how == "bent":
            return self.activation(y)
        if how == "layernorm" and self.channels(y) > 1:
            y = self.layer_norm(y)
        return self.cut(y) if how == "bare" else self.binarize(y, generic=True)

    def mixer_block(self, x: str) -> str:
        """MLP-Mixer: a dense layer over the positions of a sequence, added."""
        b = self.turned(x if x in self.bits else self.binarize(x, generic=True))
        turned = self.transpose(b, [0, 2, 1])
        length = self.net.shape_of(b)[0]
        w = self.const(self.signs((length, length)))
        y = self.net.node("Transpose", self.net.node("MatMul", turned, w), perm=[0, 2, 1])
        self.last.add(y)
        return self.add(self.norm(y, residual=x), x) if self.chance(0.6) else self.cut(y)

    # ends ------------------------------------------------------------------------------------------------------------

    def head(self, x: str) -> None:
        """An output: logits with a BatchNorm, a bias or as they are, perhaps as probabilities."""
        net = self.net
        if self.rank(x) > 2 and self.chance(0.35):
            v = self.whole_pool(x, self.pick("mean", "mean", "mean", "max", "max", "sum"))
            if self.family == "chain" or self.chance(0.2):
                v = v if v in self.bits else self.sign(self.norm(v))
        else:
            v = self.flatten(x)
        if v in self.bits and not self.exits and self.family != "chain" and self.chance(0.1) and self.channels(v) < 60:
            net.outputs.append(v)
            return
        real = self.family != "chain" and self.chance(0.25)
        y = self.dense(v, int(self.rng.integers(2, 12)), real=real, norm=self.chance(0.3))
        if not self.exits:
            y = self.outcome(y)
        net.outputs.append(y)

    def outcome(self, y: str) -> str:
        """Logits or what is computed of them."""
        net = self.net
        how = self.pick("logits", "logits", "logits", "Softmax", "LogSoftmax", "Sigmoid", "Tanh")
        if how == "logits":
            return y
        if how in ("Softmax", "LogSoftmax"):
            given = {} if self.chance(0.5) else {"axis": self.pick(1, -1) if net.opset >= 11 else 1}
            return net.node(how, y, **given)
        return net.node(how, y)

    def ends(self, x: str) -> Net:
        """The last layers, after a stream of images or vectors."""
        if x not in self.bits and self.chance(0.5):
            x = self.binarize(x, generic=False) if self.chance(0.5) else self.activation(self.norm(x))
        if self.chance(0.15) and not self.exits:
            self.net.outputs.append(x)
        if self.chance(0.3):
            v = self.flatten(x)
            x = self.dense(v, norm=True)
            x = self.sign(x)
        self.head(x)
        return self.net

    def stack(self, x: str, blocks: tuple[Callable[[str], str], ...], least: int, most: int) -> str:
        """Some of the blocks in a row, with outputs on the way now and then."""
        for _ in range(int(self.rng.integers(least, most + 1))):
            x = self.loose(self.pick(*blocks)(x))
            if self.exits or self.chance(0.06):
                self.head(x)
        return x

    # families --------------------------------------------------------------------------------------------------------

    def make_chain(self) -> Net:
        x = self.input(self.image())
        self.exits = self.chance(0.2)
        return self.ends(self.stack(x, (self.plain_block,), 2, 3))

    def make_residual(self) -> Net:
        x = self.input(self.even())
        x = self.stem(x, int(self.pick(8, 16, 24, self.rng.integers(3, 33))), real=self.chance(0.3))
        self.exits = self.chance(0.1)
        return self.ends(self.stack(x, (self.residual_block,), 2, 3))

    def make_integer(self) -> Net:
        x = self.input(self.even())
        out = int(self.rng.integers(3, 33))
        x = self.conv(x, self.same(x), out, groups=1, scaled=False, bias=0)
        if self.chance(0.4):
            x = self.cut(x)
        return self.ends(self.stack(x, (self.integer_block,), 2, 3))

    def make_growth(self) -> Net:
        x = self.input(self.image())
        x = self.stem(x, int(self.rng.integers(4, 25)), real=self.chance(0.2))
        return self.ends(self.stack(x, (self.growth_block, self.melius_block, self.branches_block), 2, 3))

    def make_line(self) -> Net:
        x = self.input((int(self.pick(1, 2, 4, 6, 9)), int(self.pick(8, 16, 24, 32, self.rng.integers(6, 40)))))
        if self.chance(0.5):
            return self.ends(self.stack(x, (self.plain_block,), 2, 3))
        x = self.stem(x, int(self.rng.integers(4, 33)), real=self.chance(0.2))
        blocks = (self.residual_block, self.growth_block, self.bent_block, self.layernorm_block, self.down_up_block)
        return self.ends(self.stack(x, (*blocks, self.plain_block), 2, 3))

    def make_sequence(self) -> Net:
        self.nhwc = True
        if self.chance(0.3):
            x = self.patches()
        else:
            x = self.dense(self.input((int(self.rng.integers(4, 33)), int(self.rng.integers(2, 13)))), norm=True)
        return self.ends(self.stack(x, (self.dense_block, self.mixer_block), 2, 3))

    def patches(self) -> str:
        """The patches of an image as a sequence."""
        side = self.pick(2, 4)
        x = self.input((int(self.pick(1, 3)), side * self.pick(2, 3), side * self.pick(1, 2, 3)))
        out, n = int(self.rng.integers(4, 33)), 0 if self.net.batch else self.pick(0, 1)
        x = self.first(self.conv(x, {"kernel_shape": [side] * 2, "strides": [side] * 2}, out, groups=1))
        y = self.net.node("Reshape", x, self.indices([n, out, -1]))
        return self.norm(self.turned(y))

    def make_decoder(self) -> Net:
        x = self.input(self.even())
        x = self.stem(x, int(self.rng.integers(4, 25)))
        x = self.stack(x, (self.down_up_block, self.down_up_block, self.residual_block, self.plain_block), 1, 3)
        x = x if x in self.bits or self.chance(0.3) else self.binarize(x, generic=False)
        x = self.enlarge(x) if self.chance(0.5) else x
        y = self.conv(x, self.same(x), int(self.pick(1, 2, 3)), groups=1, real=self.chance(0.3), norm=self.chance(0.4))
        if self.chance(0.4):
            y = self.net.node(self.pick("Sigmoid", "Tanh"), y)
        elif self.chance(0.2):
            y = self.cut(y)
        self.net.outputs.append(y)
        if self.chance(0.2):
            self.head(x)
        return self.net

    def make_relu(self) -> Net:
        x = self.input(self.image())
        return self.ends(self.stack(x, (self.bent_block,), 2, 3))

    def make_stem(self) -> Net:
        x = self.input(self.even())
        x = self.stack(x, (self.real_block,), 1, 2)
        return self.ends(self.stack(x, (self.plain_block, self.residual_block, self.bent_block), 2, 2))

    def make_layernorm(self) -> Net:
        x = self.input(self.image())
        return self.ends(self.stack(x, (self.layernorm_block, self.layernorm_block, self.plain_block), 2, 3))

    def make_vector(self) -> Net:
        x = self.input((int(self.rng.integers(8, 129)),))
        self.exits = self.chance(0.15)
        return self.ends(self.stack(x, (self.dense_block,), 2, 4))

    def make_tf(self) -> Net:
        x = self.input(self.even())
        if self.chance(0.5):
            return self.ends(self.stack(x, (self.plain_block,), 2, 3))
        x = self.stem(x, int(self.rng.integers(4, 33)))
        return self.ends(self.stack(x, (self.residual_block, self.growth_block, self.plain_block), 2, 3))

    def make_shuffle(self) -> Net:
        x = self.input(self.image())
        x = self.binarize(self.stem(x, int(self.pick(4, 6, 8, 12, 16, 24, 32))), generic=True)
        return self.ends(self.stack(x, (self.shuffle_block, self.shuffle_block, self.branches_block), 2, 3))

    def make_mixed(self) -> Net:
        x = self.input(self.even())
        blocks = (
            self.plain_block,
            self.residual_block,
            self.growth_block,
            self.melius_block,
            self.branches_block,
            self.shuffle_block,
            self.bent_block,
            self.layernorm_block,
            self.down_up_block,
        )
        if self.chance(0.3):
            blocks = (*blocks, self.real_block)
        if self.chance(0.6):
            x = self.stem(x, int(self.rng.integers(4, 25)), real=self.chance(0.2))
        return self.ends(self.stack(x, blocks, 2, 4))
