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
    "E0701": (
        "cannot write a file",
        "The disk refused a model, a checkpoint or a download. Files are written whole or not at all, so what was "
        "there before is still there.",
    ),
    "E0702": (
        "training diverged",
        "The loss became infinite or NaN. Bop leaves the binary weights valid, but batch normalisation's parameters "
        "are lost: begin anew with a lower rate for Adam.",
    ),
    "E0703": (
        "unusable checkpoint",
        "A training run resumes only from a checkpoint of the same model with the same settings.",
    ),
    "E0704": (
        "data set not available",
        "The data set is neither in its folder ($BNNCC_DATA, or ~/.cache/bnncc) nor could it be downloaded.",
    ),
    "E0705": (
        "damaged data file",
        "A file of the data set is not in the format that its publisher describes.",
    ),
    "E0706": (
        "exits or input shape do not fit",
        "An export takes the input's shape with batch 1 and, for early exits, a name for each output and a positive "
        "entropy threshold in nats.",
    ),
    "E0707": (
        "parameters that cannot be exported",
        "All parameters and statistics must be finite, and the weights of binary layers -1 or +1. An optimizer other "
        "than Bop moves binary weights away from these.",
    ),
    "E0708": (
        "torch cannot convert the model",
        "torch's ONNX exporter failed on the model: an operator without an ONNX form, or Python code that depends on "
        "values.",
    ),
    "E0709": (
        "torch and onnxruntime disagree",
        "After a conversion both run on the same random inputs. They round batch normalisation differently, which the "
        "tolerance allows for; more than that means that the file would not be the model that was trained.",
    ),
    # W: warnings
}
