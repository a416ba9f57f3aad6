"""Mutations of what is around the graph: versions, metadata, other files, options of the compiler."""

from onnx import TensorProto as T
from onnx import helper as h

from tests.fuzz.mutations.draft import DOMAINS, Draft, mutation


@mutation(3)
def versions(d: Draft) -> None:
    if d.chance(0.2):
        d.model.ir_version = d.pick((0, 1, 3, 4, 7, 8, 9, 10, 11, 99, 2**40))
        return
    how = d.pick(("set", "set", "set", "repeat", "clear", "domain"))
    if how == "clear":
        del d.model.opset_import[:]
    elif how == "repeat":
        d.model.opset_import.append(h.make_opsetid("", d.pick((1, 9, 13, 18, 9999))))
    elif how == "domain":
        d.model.opset_import.append(h.make_opsetid(d.pick(DOMAINS), d.integer()))
    else:
        d.pick(d.model.opset_import).version = d.pick(
            (0, 1, 6, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 19, 20, 21, 22, 23, 9999, 2**62, -1)
        )


@mutation(2)
def metadata(d: Draft) -> None:
    outputs = [o.name for o in d.graph.output]
    meta = {p.key: p.value for p in d.model.metadata_props} or {
        "bnncc.exits": str(outputs).replace("'", '"'), "bnncc.exit_rule": "entropy", "bnncc.exit_threshold": "0.5"
    }  # fmt: skip
    key = d.pick(sorted(meta))
    exits = (
        "[]",
        "{}",
        "null",
        "[[]]",
        "[1, 2]",
        "[" * 50_000,
        '["x"]',
        str(outputs[::-1]).replace("'", '"'),
        "NaN",
        '["\\ud800"]',
    )
    meta[key] = d.pick(
        exits
        if key == "bnncc.exits"
        else ("entropy", "margin", "0", "-1", "nan", "inf", "1e-40", "1e38", "1_0", "٣", "0x1", " 1 ", "")
    )
    h.set_model_props(d.model, meta)


@mutation(4)
def external_data(d: Draft) -> None:
    """A parameter in another file: rightly so, too short, outside of the folder, at absurd offsets, or no file at all."""
    tensors = [*d.graph.initializer, *(a.t for n in d.graph.node for a in n.attribute if a.HasField("t"))]
    t = d.pick(tensors)
    data = t.raw_data
    where = d.pick(
        (
            "w",
            "w",
            "w",
            "w",
            "sub/w",
            "../w",
            "../../../../etc/passwd",
            "/etc/passwd",
            "/dev/zero",
            "/dev/stdin",
            "link",
            "fifo",
            "",
            ".",
            "w\n",
            "C:\\w",
            "x" * 300,
            "w\x00",
            "loop",
        )
    )
    t.ClearField("raw_data")
    t.data_location = T.EXTERNAL
    del t.external_data[:]
    t.external_data.add(key="location", value=where)
    d.files["w"] = data + b"\x00" * d.pick((0, 0, 0, 8)) if d.chance(0.8) else data[:-1]
    d.links["link"] = d.pick(("/dev/zero", "/etc/passwd", "w", "missing"))
    d.links["loop"] = "loop"
    if d.chance(0.4):
        t.external_data.add(
            key="offset", value=d.pick(("0", "1", "4096", "-1", str(2**62), str(2**70), "x", "", "0x0", "1.5", "٣"))
        )
    if d.chance(0.5):
        t.external_data.add(
            key="length", value=d.pick((str(len(data)), str(len(data)), "0", "1", "-1", str(2**40), str(2**70), "x"))
        )
    if d.chance(0.1):
        t.external_data.add(key=d.pick(("checksum", "basepath", "location", "\n")), value="..")


@mutation(1)
def options(d: Draft) -> None:
    d.options.update(input=d.pick(("u8", "i8", "f32")), input_layout=d.pick(("nchw", "nhwc")))
