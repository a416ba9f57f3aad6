"""What is not read is not computed."""

from dataclasses import replace

from bnncc.graph import Graph
from bnncc.ops import Conv, MaxPool
from bnncc.scalar import Step
from bnncc.tensor import Op


def crop_unread(graph: Graph) -> Graph:
    """A convolution leaves out the last rows and columns where no window of the one op that reads it comes to them."""
    made: dict[str, Op] = {op.y.name: op for op in graph.ops}
    for given in reversed(graph.ops):
        user = made[given.y.name]
        conv = made.get(user.x.name)
        if isinstance(user, Conv | MaxPool) and isinstance(conv, Conv) and graph.sole_user(given.x) is given:
            rows, columns = (max(0, -beyond) if not user.sparse else 0 for beyond in user.reach[2:])
            if (rows or columns) and is_alike(conv):
                made[conv.y.name] = cropped(conv, rows, columns)
                made[user.y.name] = replace(user, x=made[conv.y.name].y)
    return graph.with_ops(made[op.y.name] for op in graph.ops)


def is_alike(conv: Conv) -> bool:
    """Whether no constant or operand of the output stage has the shape of the output."""
    return all(isinstance(s, Step) and s.value.shape[1:] == (1, 1) for s in conv.steps)


def cropped(conv: Conv, rows: int, columns: int) -> Conv:
    c, h, w = conv.y.shape
    shape = (c, h - rows, w - columns)
    cut = conv.cut
    if cut is not None and cut.classes is not None:
        cut = replace(cut, classes=cut.classes[: shape[1], : shape[2]])
    return replace(conv, y=replace(conv.y, shape=shape, twin=""), cut=cut)
