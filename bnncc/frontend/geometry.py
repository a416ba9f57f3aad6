"""The geometry of windows: attributes of ONNX nodes as height and width of a tensor."""

from typing import Any

import onnx

from bnncc.frontend.source.text import printable
from bnncc.frontend.values import Context, Refusal, Value
from bnncc.ops import Reshape, Transpose
from bnncc.tensor import Shape

Pads = tuple[int, int, int, int]


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


def pair(value: Value, given: dict[str, Any], name: str, default: int = 1) -> tuple[int, int]:
    """An attribute of one positive integer a spatial axis, for height and width."""
    axes = [a for a in value.axes if a]
    v = given.get(name, (default,) * len(axes))
    numbers = [int(k) for k in v]
    if len(numbers) != len(axes) or min(numbers) < 1 or max(numbers) > 1 << 15:
        raise Refusal(
            "E0105", f"{name} is {numbers}: {len(axes)} positive number(s) are expected", "export the model again"
        )
    by_axis = dict(zip(axes, numbers, strict=True))
    return by_axis.get(1, 1), by_axis.get(2, 1)


def auto_pad(given: dict[str, Any]) -> str:
    mode = given.get("auto_pad", b"").decode() or "NOTSET"
    if mode not in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"):
        raise Refusal("E0105", f"auto_pad is {printable(mode, 40)}, which ONNX does not know", "export the model again")
    return mode


def check_window(value: Value, kernel: tuple[int, int], dilations: tuple[int, int], pads: Pads) -> None:
    """Raise Refusal where not even one window fits into the image and its padding."""
    _, h, w = value.tensor.shape
    inner = value.pads
    size = [n + pads[k] + pads[k + 2] + inner[k] + inner[k + 2] for k, n in enumerate((h, w))]
    wanted = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    if any(k > n for k, n in zip(wanted, size, strict=True)):
        raise Refusal(
            "E0105",
            f"its window {wanted} is larger than its padded input {size}",
            "use a smaller kernel, or more padding",
        )


def padding(
    value: Value,
    given: dict[str, Any],
    kernel: tuple[int, int],
    strides: tuple[int, int],
    dilations: tuple[int, int],
) -> Pads:
    """pads or auto_pad as (top, left, bottom, right)."""
    _, h, w = value.tensor.shape
    top, left, bottom, right = value.pads
    size = (h + top + bottom, w + left + right)
    axes = [a for a in value.axes if a]
    mode = auto_pad(given)
    if mode == "NOTSET":
        p = [int(k) for k in given.get("pads", (0,) * 2 * len(axes))]
        if len(p) != 2 * len(axes) or min(p) < 0 or max(p) > 1 << 15:
            raise Refusal(
                "E0105", f"pads is {p}: {2 * len(axes)} numbers from 0 are expected", "export the model again"
            )
        first, last = (dict(zip(axes, q, strict=True)) for q in (p[: len(axes)], p[len(axes) :]))
        return first.get(1, 0), first.get(2, 0), last.get(1, 0), last.get(2, 0)
    if mode == "VALID":
        return 0, 0, 0, 0
    total = [
        max(0, (-(-n // s) - 1) * s + (k - 1) * d + 1 - n)
        for n, k, s, d in zip(size, kernel, strides, dilations, strict=True)
    ]
    small = [t // 2 for t in total]
    large = [t - s for t, s in zip(total, small, strict=True)]
    ahead, behind = (small, large) if mode == "SAME_UPPER" else (large, small)
    return ahead[0], ahead[1], behind[0], behind[1]


def image(ctx: Context, node: onnx.NodeProto) -> Value:
    """Input 0 as an image whose ONNX axes are those of its tensor: [1, C, H, W] or [1, C, L]."""
    value = ctx.value(node)
    if len(value.shape) not in (3, 4) or value.shape[0] != 1:
        raise Refusal(
            "E0105",
            f"its input has shape {list(value.shape)}; [1, C, H, W] or [1, C, L] is expected",
            "only 1D and 2D layers with batch 1 are supported",
        )
    if value.last:
        t, first = value.tensor, value.axes[0]
        order = (1, 2, 0) if len(value.shape) == 4 else (first, 3 - first, 0)
        turned = ctx.move(node, t, Transpose, (t.shape[order[0]], t.shape[order[1]], t.shape[order[2]]), axes=order)
        value = Value(turned, value.shape)
    if len(value.shape) == 3 and 1 not in value.tensor.shape[1:]:
        c, h, w = value.tensor.shape
        value = Value(ctx.move(node, value.tensor, Reshape, (c, 1, h * w)), value.shape)
    return value


def image_shape(ctx: Context, node: onnx.NodeProto, value: Value, channels: int) -> Shape:
    """The tensor shape [C, H, W] of the node's output, an image like `value`."""
    shape = ctx.out_shape(node)
    if len(shape) != len(value.shape) or shape[0] != 1 or shape[1] != channels:
        raise Refusal(
            "E0105",
            f"its output has shape {list(shape)}; {channels} channels and batch 1 are expected",
            "export the model again",
        )
    by_axis = dict(zip(value.axes, shape[1:], strict=True))
    return channels, by_axis.get(1, 1), by_axis.get(2, 1)
