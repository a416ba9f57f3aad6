"""bnncc: from a binarized neural network in ONNX to bit-packed C for Cortex-M."""
