"""What comes from a file, as messages show it: on one line, without control characters, not too long."""

import re
from collections.abc import Iterable

import onnx

WHERE_IN_ORT = re.compile(  # its status, a place in its source, and the signature there
    r"^\[ONNXRuntimeError\] : \d+ : \w+ : |/onnxruntime_src/\S+ [^)]*\)(?: const)?(?: \[with [^\]]*\])? "
)


def first_line(e: BaseException) -> str:
    """What an exception of onnx or onnxruntime says, fit for a message."""
    lines = WHERE_IN_ORT.sub("", str(e).strip()).splitlines()
    return printable(lines[0], 240) if lines else type(e).__name__


def label(node: onnx.NodeProto) -> str:
    """How messages name a node: its name (or its first output) and its operator, on one line."""
    name = node.name or (node.output[0] if node.output else "")
    return f"{printable(name)} ({printable(node.op_type)})"


def printable(name: str, length: int = 80) -> str:
    """Text from a file for people: one line, no control characters, `length` characters at most."""
    shown = "".join(c if c.isprintable() else "?" for c in name[: length + 1])
    return shown if len(shown) <= length else shown[: length - 3] + "..."


def shown(shape: Iterable[int]) -> str:
    """A shape for messages, however long."""
    return printable(str([int(d) for d in shape]))
