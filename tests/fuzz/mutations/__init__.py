"""Mutations of a model: of its bytes, of any field of the protobuf message, and of what the fields mean together."""

# The order in which they are imported is that of the list, on which the cases of a seed depend.
from tests.fuzz.mutations import fields, shapes, parameters, wiring, operators, subgraphs, files  # noqa: F401, I001
from tests.fuzz.mutations.draft import MUTATIONS, Draft, mutate
from tests.fuzz.mutations.raw import mutate_bytes

__all__ = ["MUTATIONS", "Draft", "mutate", "mutate_bytes"]
