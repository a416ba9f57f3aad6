"""One random network through the whole compiler, judged against onnxruntime."""

from dataclasses import dataclass, replace

import bnncc
from bnncc.ops import Conv
from bnncc.tensor import Elem
from bnncc.verify.verdicts import Verification
from tests.nets.families import random_net
from tests.nets.net import Net
from tests.nets.writer import MIXED


@dataclass(frozen=True)
class Outcome:
    """How one network went: `failure` is empty where the contract is kept; `samples` were compared, `left_out` of them not."""

    seed: int
    family: str
    net: Net
    failure: str = ""
    zero: bool = False  # refused, because a ternary Sign can meet zero, or a sum 2**24
    real: bool = False
    samples: int = 0
    left_out: int = 0


def check(
    seed: int, *, family: str = "", target: str = "cortex-m4", on: str = "host", max_channels: int = 100
) -> Outcome:
    """Compile the network and compare it with onnxruntime on the samples that it was calibrated on; every other one with rare ones.

    A bit that rounding may decide either way takes its sample out of the comparison; how many may be, no one network can
    tell: that is judged over many (`left_out`).
    """
    net = random_net(seed, family=family, max_channels=max_channels)
    outcome = Outcome(seed, net.family, net)
    try:
        compiled = bnncc.compile(net.model(), target, name="net", calibrate=net.x if seed % 2 else None, **net.options)
    except bnncc.ModelError as e:
        codes = {d.code for d in e.diagnostics}
        if codes == {"E0304"} and any(node.op_type == "Sign" for node in net.nodes):
            return replace(outcome, zero=True)  # what stands before it gives zero for an integer by chance
        if codes == {"E0302"} and net.family == "integer":
            return replace(
                outcome, zero=True
            )  # sums of sums can reach 2**24, from where on no float32 reference is exact
        return replace(outcome, failure=refused(e))
    try:
        verdict = compiled.verify(net.x, on=on)
    except bnncc.BnnccError as e:
        return replace(outcome, failure=refused(e))
    failures = weak(net, compiled) + violations(net, compiled, verdict)
    real = not all(s.op.exact for s in compiled.program.steps)
    return replace(outcome, failure="\n".join(failures), real=real, samples=verdict.samples, left_out=verdict.left_out)


def refused(e: bnncc.BnnccError) -> str:
    return "\n".join(f"{d.code} {d.message} [{d.where}]" for d in e.diagnostics)


def weak(net: Net, compiled: bnncc.Compiled) -> list[str]:
    """Why the network would prove little: layers without binary weights, channels that are constant."""
    layers = [op for op in compiled.program.graph.ops if isinstance(op, Conv) and op.binary]
    of_bits = [op for op in layers if op.x.elem is Elem.BIN]
    found = []
    if len(layers) < 2 or (net.family == "chain" and len(of_bits) < 2):
        found.append(f"weak: {len(layers)} binary layers, {len(of_bits)} of them of bits")
    if min(net.mixed()) < MIXED:
        found.append(f"weak: only {min(net.mixed()):.0%} of a layer's channels take both values")
    return found


def violations(net: Net, compiled: bnncc.Compiled, verdict: Verification) -> list[str]:
    """What of the contract is broken, apart from the share of samples left out."""
    if not replace(verdict, left_out=0).ok:
        steps = [f"{s.kernel} {s.mismatches}/{s.values} [{s.origin}]" for s in verdict.steps if s.mismatches]
        ends = [f"{o.name} in {o.mismatched_samples} samples" for o in verdict.outputs if o.mismatched_samples]
        exits = [f"exits {verdict.exits}"] if verdict.exits and verdict.exits.mismatched_samples else []
        classes = [f"{verdict.wrong_classes} wrong classes"] if verdict.wrong_classes else []
        return ["violation: " + "; ".join([*steps, *ends, *exits, *classes])]
    if all(s.op.exact for s in compiled.program.steps):
        rough = {node.output[0] for node in net.nodes if node.op_type in ("Tanh", "Sigmoid", "Softmax", "LogSoftmax")}
        off = [o.name for o in verdict.outputs if o.largest_error and o.name not in rough]
        if verdict.left_out or off:
            return [f"violation: integers only, but {verdict.left_out} samples left out, outputs off: {off}"]
    return []


def left_out_share(outcomes: list[Outcome]) -> float:
    """Of all samples of networks with real-valued layers; the contract allows bnncc.verify.verdicts.LEFT_OUT_LIMIT."""
    samples = sum(o.samples for o in outcomes if o.real)
    return sum(o.left_out for o in outcomes if o.real) / samples if samples else 0.0
