"""What the tests of operators share: a network for each group of forms, each form an output of it."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import onnx

import bnncc
from bnncc.tensor import Elem, Op
from tests.nets import Net

Build = Callable[[Net, str], str]
Forms = Mapping[str, Build]


def ints(net: Net, *values: int) -> str:
    return net.const(values, np.int64)


def binary(net: Net, x: str, out: int = 7, kernel: int = 1, **given: Any) -> str:
    """A convolution with weights of -1 and +1, over all channels."""
    return net.node("Conv", x, net.weight((out, net.shape_of(x)[0], kernel, kernel)), **given)


def real(net: Net, x: str, out: int = 7, kernel: int = 1, **given: Any) -> str:
    """The same with real weights."""
    return net.node("Conv", x, net.const(net.rng.normal(size=(out, net.shape_of(x)[0], kernel, kernel))), **given)


def take(net: Net, x: str, *ranges: tuple[int, int, int, int]) -> str:
    """Slices, (axis, start, end, step) each."""
    axes, starts, ends, steps = (ints(net, *column) for column in zip(*ranges, strict=True))
    return net.node("Slice", x, starts, ends, axes, steps)


def verified(net: Net | onnx.ModelProto, x: np.ndarray | None = None, **options: Any) -> bnncc.Compiled:
    """The network compiled; the C gives what onnxruntime gives, and every output varies over the samples."""
    compiled = bnncc.compile(net.model() if isinstance(net, Net) else net, name="net", **options)
    verdict = compiled.verify(net.x if x is None and isinstance(net, Net) else x)
    wrong = [f"{s.kernel} [{s.origin}]: {s.mismatches} of {s.values}" for s in verdict.steps if s.mismatches]
    assert verdict.ok, (wrong, verdict.outputs)
    still = [name for name, v in verdict.outputs_c.items() if not np.ptp(v)]
    assert not still, f"constant outputs {still} prove nothing"
    return compiled


def checked(
    net: Net, x: str, forms: Forms, *, signs: bool = False, **options: Any
) -> tuple[bnncc.Compiled, dict[str, str]]:
    """Each form applied to x as an output (and its sign behind a BatchNorm as another); the compiled net, and their names."""
    names = {form: build(net, x) for form, build in forms.items()}
    net.outputs = list(names.values())
    if signs:
        net.outputs += [net.sign(net.batch_norm(y), "ge_where") for y in names.values()]
        assert min(net.mixed()) > 0.5, "channels that are constant prove little"
    return verified(net, **options), names


def ops(c: bnncc.Compiled, kind: type[Op]) -> list[Any]:
    return [s.op for s in c.program.steps if isinstance(s.op, kind)]


def elements(c: bnncc.Compiled, names: Iterable[str]) -> list[Elem]:
    """The types of the tensors behind the outputs."""
    by_name = {o.name: o.tensor.elem for o in c.program.graph.outputs}
    return [by_name[n] for n in names]
