"""Mutations of any field of the protobuf message."""

from collections.abc import Iterator
from typing import Any

from google.protobuf.message import Message

from tests.fuzz.mutations.draft import NAMES, Draft, mutation


def messages(message: Message) -> Iterator[Message]:
    """The message and all below it."""
    yield message
    for kind, value in message.ListFields():
        if kind.type == kind.TYPE_MESSAGE:
            for m in [value] if isinstance(value, Message) else value:
                yield from messages(m)


def some(d: Draft, kind: str, number: int) -> Any:
    """A value for a field of a protobuf type."""
    if kind == "string":
        return d.pick(NAMES) if d.chance(0.6) else d.pick(d.values())
    if kind == "bytes":
        return d.rng.randbytes(d.pick((0, 1, 3, 4, 8, 100)))
    if kind in ("float", "double"):
        return d.real()
    if kind == "enum":
        return d.pick(range(number + 8))
    return d.integer()


KINDS = {1: "double", 2: "float", 9: "string", 12: "bytes", 14: "enum"}  # FieldDescriptor.type


@mutation(10)
def any_field(d: Draft) -> None:
    """Change, add, drop, repeat or reorder whatever a random message of the file holds."""
    every = list(messages(d.model))
    message = d.pick(every)
    set_fields = [f for f, _ in message.ListFields()]
    f = d.pick(set_fields) if set_fields and d.chance(0.8) else d.pick(message.DESCRIPTOR.fields)
    if f.is_repeated:
        items = getattr(message, f.name)
        how = d.pick(("change", "change", "drop", "repeat", "swap", "add", "clear"))
        at = d.rng.randrange(len(items)) if len(items) else 0
        if how == "clear":
            message.ClearField(f.name)
        elif f.type == f.TYPE_MESSAGE:
            if how == "drop" and items:
                del items[at]
            elif how == "repeat" and items:
                items.append(items[at])
            elif how == "swap" and len(items) > 1:
                keep = [type(m).FromString(m.SerializeToString()) for m in items]
                d.rng.shuffle(keep)
                del items[:]
                items.extend(keep)
            else:
                alike = [m for m in every if m.DESCRIPTOR is f.message_type]
                items.append(d.pick(alike)) if alike else items.add()
        else:
            value = some(d, KINDS.get(f.type, "int"), 20)
            if how == "change" and items:
                items[at] = value
            elif how == "drop" and items:
                del items[at]
            elif how == "repeat" and items:
                items.extend(list(items) * d.pick((1, 3)))
            elif how == "swap" and len(items) > 1:
                keep = list(items)
                d.rng.shuffle(keep)
                items[:] = keep
            else:
                items.append(value)
    elif f.type == f.TYPE_MESSAGE:
        alike = [m for m in every if m.DESCRIPTOR is f.message_type]
        if alike and d.chance(0.6):
            copy = type(alike[0]).FromString(d.pick(alike).SerializeToString())
            getattr(message, f.name).CopyFrom(copy)
        elif d.chance(0.5):
            message.ClearField(f.name)
        else:
            getattr(message, f.name).SetInParent()
    elif d.chance(0.2):
        message.ClearField(f.name)
    elif f.type == f.TYPE_STRING and d.chance(0.3):
        old = getattr(message, f.name)
        setattr(message, f.name, old + d.pick(NAMES))
    else:
        number = 1 << 31 if KINDS.get(f.type) != "enum" else 20
        setattr(message, f.name, some(d, KINDS.get(f.type, "int"), number))
