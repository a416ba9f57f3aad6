"""Whole runs from elsewhere (a board, the counting simulator) beside onnxruntime."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnncc.artifact import Artifact
from bnncc.emit import fields
from bnncc.outputs import entropy
from bnncc.verify.reference import Reference

ENTROPY_MARGIN = 1e-5  # nats; a decision this close to the threshold may fall either way in float32


@dataclass(frozen=True)
class RunsVerdict:
    """`differing_samples` differ from the reference; they are `mismatched_samples` where the model is exact (`judged`)."""

    samples: int
    differing_samples: int
    largest_error: float
    judged: bool

    @property
    def mismatched_samples(self) -> int:
        return self.differing_samples if self.judged else 0


def judge_runs(compiled: Artifact, onnx_inputs: NDArray[Any], results: NDArray[np.void]) -> RunsVerdict:
    """Compare NAME_result structs [N] with the reference: outputs bit for bit, the exit taken, up to that exit's outputs."""
    graph, imported = compiled.program.graph, compiled.imported
    names = [o.name for o in graph.outputs]
    values = Reference(imported.reference, imported.input_name, names).run(onnx_inputs)
    n = len(results)
    bad = np.zeros(n, bool)
    largest = 0.0
    order = list(graph.exits.outputs) if graph.exits else list(range(len(graph.outputs)))
    made = fields(compiled.program)
    stopped = np.zeros(n, bool)
    for depth, index in enumerate(order):
        output, field = graph.outputs[index], made[index]
        want = values[output.name].reshape(n, -1)
        got = results[field.name].reshape(n, -1).astype(np.float64)
        error = np.where(stopped[:, None], 0.0, np.abs(got - want))
        bad |= (error > 0).any(axis=1)
        largest = max(largest, float(error.max()))
        if graph.exits:
            h = entropy(want)
            here = results["exit_index"] == depth
            should = (h < graph.exits.threshold) | (depth == len(order) - 1)
            clear = np.abs(h - graph.exits.threshold) > ENTROPY_MARGIN
            bad |= ~stopped & clear & (here != should)
            bad |= here & (results["class_index"] != want.argmax(axis=1))
            stopped |= here
    return RunsVerdict(n, int(bad.sum()), largest, all(s.op.exact for s in compiled.program.steps))
