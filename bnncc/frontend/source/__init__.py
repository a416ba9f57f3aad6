"""An ONNX file, from bytes to a checked model: each check before the native code that relies on it."""
