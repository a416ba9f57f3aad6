"""The front end: an untrusted ONNX file becomes a Graph, or a list of everything that is in the way."""
