"""Shapes: inferred by onnx, within limits."""

from collections.abc import Iterable, Mapping

import onnx

from bnncc.errors import ModelError
from bnncc.frontend.source.limits import MAX_ELEMENTS, MAX_VALUES, elements
from bnncc.frontend.source.messages import without_data
from bnncc.frontend.source.text import first_line, label, printable, shown


def infer_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """Write every shape and type that ONNX can tell into the model. Returns the same.

    Without data_prop, which keeps a hundred bytes for each element of every vector of integers; folding does that work.
    """
    try:
        inferred = onnx.shape_inference.infer_shapes(without_data(model), check_type=True, strict_mode=True).graph
    except Exception as e:  # onnx raises InferenceError, RuntimeError or TypeError for an inconsistent model
        raise ModelError.of(
            "E0105", f"the model's shapes do not fit together: {first_line(e)}", remedy="export the model again"
        ) from None
    del model.graph.value_info[:], model.graph.output[:]
    model.graph.value_info.extend(inferred.value_info)
    model.graph.output.extend(inferred.output)
    return model


def shapes_of(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Every static shape known, by value name; unknown dimensions leave the value out. Raises ModelError E0104."""
    shapes = {}
    for v in [*model.graph.input, *model.graph.value_info, *model.graph.output]:
        t = v.type.tensor_type
        if t.HasField("shape") and all(d.HasField("dim_value") for d in t.shape.dim):
            shapes[v.name] = tuple(int(d.dim_value) for d in t.shape.dim)
    for t in model.graph.initializer:
        shapes[t.name] = tuple(int(d) for d in t.dims)
    for name, shape in shapes.items():
        negative = min(shape, default=0) < 0
        if negative or elements(shape) > MAX_ELEMENTS:
            maker = next((n for n in model.graph.node if name in n.output), None)
            raise ModelError.of(
                "E0104",
                f"value {printable(name)} has absurd dimensions {shown(shape)}",
                where=label(maker) if maker else "",
                remedy="use a window that fits into its input" if negative else "export the model again",
            )
    return shapes


def check_values(names: Iterable[str], maker: onnx.NodeProto | None, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse tensors that no microcontroller has memory for."""
    for name in names:
        if elements(shapes.get(name, ())) > MAX_VALUES:
            raise ModelError.of(
                "E0104",
                f"{'value' if maker else 'input'} {printable(name)} of shape {shown(shapes[name])} has more than {MAX_VALUES} values",
                where=label(maker) if maker else "",
                remedy="use smaller images, or fewer channels",
            )
