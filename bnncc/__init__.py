"""bnncc: from a binarized neural network in ONNX to bit-packed C for Cortex-M."""

from bnncc.compiler import Compiled, compile
from bnncc.errors import BnnccError, Diagnostic, ModelError, ToolError, UsageError

__all__ = ["BnnccError", "Compiled", "Diagnostic", "ModelError", "ToolError", "UsageError", "compile"]
__version__ = "0.1.0"
