"""Export of a binarized network from torch to ONNX, in the form that bnncc compiles without doubt.

* The input is uint8, and the normalisation part of the graph; or the input is float32 features.
* Each sign is one `qonnx.custom_op.general::BipolarQuant` node. The model holds a function of that name, so the file
  runs in stock onnxruntime, in the ONNX reference evaluator and in qonnx.
* Binary weights are stored at one bit each and unpacked by standard operators.
* Batch normalisation stays a node of its own: folded into the weights, it would no longer be exact.
"""

import copy
import io
import json
import logging
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper
from torch import nn
from torch.nn.utils import parametrize

from bnncc.errors import Diagnostic, ModelError, UsageError, raise_all
from bnncc.files import write_whole
from bnncc.train import onnx_form
from bnncc.train.latents import fold
from bnncc.train.layers import BIPOLAR_QUANT, binary_layers, watch_signs

TOLERANCE = 1e-4
"""How far torch and onnxruntime may differ in a value, relative to the largest of its tensor (or to 1)."""

_Array = NDArray[Any]

InputType = Literal["uint8", "float32"]


@dataclass(frozen=True)
class ExportCheck:
    """How onnxruntime, running the written file, compares with torch on random inputs.

    A step leads from the input or a sign to the next signs or outputs. Each one was run on torch's own signs, and all of
    its values were within `TOLERANCE`: `largest_step_difference` is the largest of all samples, relative like it.

    `agreeing` samples have all outputs within `TOLERANCE` from end to end too, and the same arg-max of logits;
    `largest_difference` is the largest from end to end. A sample does not agree where a value was so close to zero that
    torch's and onnxruntime's rounding give it another sign: in deep networks of real values there is such a value in
    many samples, in networks of integers hardly ever.
    """

    samples: int
    agreeing: int
    largest_difference: float
    largest_step_difference: float


def export_onnx(
    model: nn.Module,
    path: str | Path,
    input_shape: Sequence[int],
    *,
    exits: Sequence[str] | None = None,
    exit_threshold: float | None = None,
    input_dtype: InputType = "uint8",
    samples: int = 32,
    seed: int = 0,
) -> ExportCheck:
    """Write `model`, as it is in eval mode, to the ONNX file `path`; nothing is written if anything is wrong.

    The same model gives the same bytes (with the same versions of torch and onnx).

    Args:
        model: takes one tensor [1,C,H,W] and returns one tensor or a tuple of them; it is left as it was. Of latent
            weights the signs are written.
        path: the file to write.
        input_shape: [1,C,H,W], or any shape whose first dimension is 1.
        exits: names for the outputs, which are the logits of early exits in order of depth. Without it a single output
            is called "logits" if it is [1,K] and else "output", several "output1", "output2", ...
        exit_threshold: entropy in nats below which an exit is taken; with `exits` only.
        input_dtype: what the model takes; "float32" is for features.
        samples: how many random inputs torch and onnxruntime are compared on, all bytes or else normally distributed
            floats; seed: of those inputs.

    Raises:
        UsageError: E0706 the exits or the shape do not fit the model.
        ModelError: E0707 parameters that cannot be exported, E0708 torch cannot convert the model, E0709 torch and
            onnxruntime disagree.
        ToolError: E0509 the file cannot be written.
    """
    path = Path(path)
    if (exits is None) != (exit_threshold is None):
        raise UsageError.of("E0706", "exits and exit_threshold go together", remedy="give both, or none")
    if exit_threshold is not None and not 0 < exit_threshold < math.inf:
        raise UsageError.of("E0706", f"the exit threshold is {exit_threshold}", remedy="give a positive number of nats")
    if len(input_shape) == 0 or input_shape[0] != 1:
        raise UsageError.of("E0706", f"input shape {tuple(input_shape)}", remedy="the first dimension, the batch, is 1")
    if input_dtype not in get_args(InputType):
        raise UsageError.of("E0706", f"input type {input_dtype}", remedy="give uint8 or float32")
    _check_parameters(model)
    model = copy.deepcopy(model).cpu().eval()
    # With channels last torch spells a mean over the pixels as a Gather; its types lack this argument of `to`.
    model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    fold(model)
    random = np.random.default_rng(seed)
    extent = (samples, *input_shape)
    inputs: _Array = (
        random.integers(0, 256, extent, np.uint8)
        if input_dtype == "uint8"
        else random.standard_normal(extent, np.float32)
    )
    try:
        expected = [_run_torch(model, x) for x in inputs]
    except RuntimeError as error:
        raise UsageError.of(
            "E0706",
            f"the model does not run on {input_dtype} {tuple(input_shape)}: {error}",
            remedy="check the input shape and type",
        ) from error
    proto = _convert(model, inputs[0], _output_names(expected[0].outputs, exits))
    onnx_form.drop_zero_biases(proto)
    onnx_form.name_after_layers(proto)
    onnx_form.pack_weights(proto)
    onnx_form.strip(proto)
    onnx_form.define_bipolar_quant(proto)
    if exits is not None:
        metadata = {
            "bnncc.exits": json.dumps(list(exits)),
            "bnncc.exit_rule": "entropy",
            "bnncc.exit_threshold": str(float(exit_threshold or 0)),
        }
        helper.set_model_props(proto, metadata)
    onnx.checker.check_model(proto, full_check=True)
    content = proto.SerializeToString(deterministic=True)
    check = _compare(proto, inputs, expected)
    write_whole(path, content)
    return check


@dataclass(frozen=True)
class _Run:
    """What torch makes of a sample: its outputs, and the inputs of the signs in the order of their execution."""

    outputs: list[_Array]
    signs: list[_Array]


def _run_torch(model: nn.Module, x: _Array) -> _Run:
    with torch.no_grad(), watch_signs() as signs:
        outputs = _as_tuple(model(torch.from_numpy(x)))
    return _Run([z.numpy() for z in outputs], [z.numpy() for z in signs])


def _as_tuple(outputs: torch.Tensor | Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    return (outputs,) if isinstance(outputs, torch.Tensor) else tuple(outputs)


def _output_names(outputs: Sequence[_Array], exits: Sequence[str] | None) -> list[str]:
    count = len(outputs)
    if exits is None and count == 1:
        return ["logits" if outputs[0].ndim == 2 else "output"]
    if exits is None:
        return [f"output{number}" for number in range(1, count + 1)]
    if len(exits) != count or len(set(exits)) != count:
        raise UsageError.of(
            "E0706", f"{count} outputs, but the exits are {list(exits)}", remedy="give each output one name of its own"
        )
    return list(exits)


def _check_parameters(model: nn.Module) -> None:
    """Refuse values that are not finite, and weights of binary layers that are not -1 and +1; names all of them."""
    problems = [
        Diagnostic("E0707", "values that are not finite", where=name, remedy="train the model again")
        for name, tensor in (*model.named_parameters(), *model.named_buffers())
        if not torch.isfinite(tensor).all()
    ]
    problems += [
        Diagnostic(
            "E0707",
            "a binary layer has weights other than -1 and +1",
            where=f"{path}.weight",
            remedy="train binary_parameters(model) with Bop and real_parameters(model) with another optimizer",
        )
        for path, layer in binary_layers(model)
        if not parametrize.is_parametrized(layer, "weight") and not (layer.weight.abs() == 1).all()
    ]
    raise_all(problems)


@contextmanager
def _silence() -> Iterator[None]:
    """Keep torch's exporter from printing: its warnings are about its own parts, and its errors become ours."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _convert(model: nn.Module, x: _Array, outputs: Sequence[str]) -> ModelProto:
    """The model as torch's exporter gives it, constants folded but batch normalisation kept."""
    from onnxscript import optimizer

    try:
        with _silence():
            program = torch.onnx.export(
                model,
                (torch.from_numpy(x),),
                dynamo=True,
                optimize=False,  # the optimizer folds batch normalisation into the weights
                opset_version=onnx_form.OPSET,
                input_names=["input"],
                output_names=outputs,
                verbose=False,
            )
            assert program is not None
            optimizer.fold_constants(program.model)
            optimizer.remove_unused_nodes(program.model)
            return program.model_proto
    except Exception as error:  # torch wraps whatever went wrong inside the model or the exporter
        cause = error.__cause__ or error
        raise ModelError.of(
            "E0708",
            f"torch's ONNX exporter failed: {type(cause).__name__}: {str(cause).strip().splitlines()[0]}",
            remedy="`torch.onnx.export(model, ..., dynamo=True)` by itself tells more",
        ) from error


def _compare(proto: ModelProto, inputs: _Array, expected: Sequence[_Run]) -> ExportCheck:
    largest_step = _compare_steps(proto, inputs, expected)
    session = _session(proto)
    largest, agreeing = 0.0, 0
    for x, run in zip(inputs, expected, strict=True):
        got = session.run(None, {"input": x})
        difference = max(_difference(a, b) for a, b in zip(got, run.outputs, strict=True))
        same_class = all(a.ndim != 2 or np.argmax(a) == np.argmax(b) for a, b in zip(got, run.outputs, strict=True))
        largest = max(largest, difference)
        agreeing += difference <= TOLERANCE and same_class
    return ExportCheck(len(inputs), agreeing, largest, largest_step)


def _compare_steps(proto: ModelProto, inputs: _Array, expected: Sequence[_Run]) -> float:
    """Run each part between signs on torch's own signs; the largest relative difference.

    A comparison from end to end cannot tell a wrong conversion from one value near zero that was rounded to the other
    side; this one can.
    """
    cut = ModelProto()
    cut.CopyFrom(proto)
    graph = cut.graph
    signs = [node for node in graph.node if node.op_type == BIPOLAR_QUANT.split("::")[1]]
    if len(signs) != len(expected[0].signs):
        raise _disagreement(f"{len(signs)} signs in the file, {len(expected[0].signs)} in torch")
    origins = {value.name: value.name for value in graph.output}
    for number, (node, z) in enumerate(zip(signs, expected[0].signs, strict=True)):
        name = f"before sign {number}"  # a copy, since two signs may share their input, and it may be the graph's own
        origins[name] = node.input[0]
        graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, z.shape))
        graph.input.append(helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, z.shape))
        graph.node.remove(node)
        graph.node.append(helper.make_node("Identity", [node.input[0]], [name]))
    session = _session(cut)
    names = [value.name for value in graph.output]
    largest = 0.0
    for x, run in zip(inputs, expected, strict=True):
        ones = (np.where(z >= 0, np.float32(1), np.float32(-1)) for z in run.signs)
        feed = {"input": x} | dict(zip((node.output[0] for node in signs), ones, strict=True))
        for name, got, wanted in zip(names, session.run(None, feed), run.outputs + run.signs, strict=True):
            difference = _difference(got, wanted)
            if not difference <= TOLERANCE:
                raise _disagreement(f"{origins[name]} by {difference:.3g} of its largest value")
            largest = max(largest, difference)
    return largest


def _difference(a: _Array, b: _Array) -> float:
    return float(np.abs(a - b).max()) / max(1.0, float(np.abs(b).max()))


def _disagreement(what: str) -> ModelError:
    return ModelError.of(
        "E0709",
        f"on random inputs onnxruntime differs from torch, where {TOLERANCE} is allowed: {what}",
        remedy="look for a layer that behaves differently in an export, and that all signs are bnncc.train.sign",
    )


def _session(proto: ModelProto) -> Any:
    runtime: Any = onnxruntime
    options = runtime.SessionOptions()
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    return runtime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
