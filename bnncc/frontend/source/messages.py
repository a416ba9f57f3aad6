"""The protobuf messages of a model: what is in them, and copies without large data."""

from collections.abc import Iterator

import onnx
from google.protobuf.message import Message

from bnncc.frontend.source.limits import elements

LARGE = 1 << 11  # elements; the data of a larger parameter are not shown to the checker and to shape inference
PLAIN = {
    "dims",
    "data_type",
    "name",
    "raw_data",
}  # the fields of a parameter about which the checker has nothing to say


def messages(message: Message) -> Iterator[Message]:
    """The message and everything below it that may hold text."""
    yield message
    if isinstance(message, onnx.TensorProto):  # ListFields would copy its data
        yield from message.external_data
        return
    for kind, value in message.ListFields():
        if kind.type == kind.TYPE_MESSAGE:
            for m in [value] if isinstance(value, Message) else value:
                yield from messages(m)


def texts(message: Message) -> Iterator[str | bytes]:
    """Every string of the message itself; one that is no UTF-8 comes as bytes."""
    if isinstance(message, onnx.TensorProto):
        yield from (message.name, message.doc_string)
        return
    for kind, value in message.ListFields():
        if kind.type == kind.TYPE_STRING:
            yield from [value] if isinstance(value, str | bytes) else value


def without_data(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which large parameters are inputs of the same type: all that the checker and shape inference need."""
    light = onnx.ModelProto()
    _copy_fields(model, light, "graph")
    _copy_fields(model.graph, light.graph, "initializer")
    listed = {i.name for i in model.graph.input}
    for t in model.graph.initializer:
        if elements(t.dims) < LARGE or t.name in listed or {kind.name for kind, _ in t.ListFields()} != PLAIN:
            light.graph.initializer.append(t)
        else:
            light.graph.input.append(onnx.helper.make_tensor_value_info(t.name, t.data_type, t.dims))
    return light


def _copy_fields(source: Message, target: Message, left_out: str) -> None:
    for kind, value in source.ListFields():
        if kind.name == left_out:
            continue
        if hasattr(value, "extend"):
            getattr(target, kind.name).extend(value)
        elif isinstance(value, Message):
            getattr(target, kind.name).CopyFrom(value)
        else:
            setattr(target, kind.name, value)
