"""Verification: the generated C beside onnxruntime, on the host under sanitizers or in the simulator."""
