"""Graph -> Graph: small rewrites, each one exact; PASSES is the table of contents."""

from collections.abc import Callable

from bnncc.graph import Graph, check
from bnncc.passes.concats import split_concats
from bnncc.passes.crops import crop_unread
from bnncc.passes.maps import fuse_epilogues, merge_maps
from bnncc.passes.pools import lift_pools, sink_pools
from bnncc.passes.thresholds import find_thresholds
from bnncc.passes.upsamples import sink_upsamples

PASSES: tuple[Callable[[Graph], Graph], ...] = (
    split_concats,
    sink_upsamples,
    merge_maps,
    sink_pools,
    lift_pools,
    merge_maps,
    find_thresholds,
    fuse_epilogues,
    crop_unread,
)


def run_passes(graph: Graph, observe: Callable[[str, Graph], None] | None = None) -> Graph:
    """Every pass in order, the invariants checked after each; `observe(name, graph)` sees every stage."""
    if observe:
        observe("import", graph)
    for one in PASSES:
        graph = one(graph)
        check(graph)
        if observe:
            observe(one.__name__, graph)
    return graph
