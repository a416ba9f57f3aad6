"""The register of diagnostic codes, `code -> (title, explanation)`; `bnncc explain CODE` prints it.

E01 the ONNX file   E02 its operators   E03 lowering and exactness   E04 options and input data
E05 tools and simulator   E06 boards   E07 training and export   W warnings, numbered the same way
"""

CODES: dict[str, tuple[str, str]] = {
    # E01: the ONNX file
    # E02: operators
    # E03: lowering and exactness
    # E04: options and input data
    "E0401": (
        "unknown target",
        "--target takes a core (cortex-m4) or a board id; `bnncc targets` lists both. A core has an instruction set "
        "and a timing model; only a board has flash, RAM and a clock.",
    ),
    # E05: tools and simulator
    # E06: boards
    # E07: training and export
    # W: warnings
}
