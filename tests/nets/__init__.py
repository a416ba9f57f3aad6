"""Random binarized networks as ONNX, for tests: written with onnx.helper, calibrated so that channels take both values."""

from tests.nets.families import FAMILIES, OPSETS, random_net
from tests.nets.net import SIGNS, Net, bipolar_quant, finish, small_net
from tests.nets.writer import MIXED

__all__ = ["FAMILIES", "MIXED", "OPSETS", "SIGNS", "Net", "bipolar_quant", "finish", "random_net", "small_net"]
