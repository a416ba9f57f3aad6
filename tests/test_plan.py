"""The memory plan: nothing alive overlaps, and no plan beats the lower bound."""

from hypothesis import given, settings
from hypothesis import strategies as st

from bnncc.plan import lower_bound, place, plan
from bnncc.program import Buffer

spans = st.tuples(st.integers(1, 200), st.integers(0, 12), st.integers(0, 6), st.sampled_from(["uint8_t", "uint32_t"]))


def buffers(drawn: list[tuple[int, int, int, str]]) -> list[Buffer]:
    return [Buffer(f"b{k}", kind, n, first, first + length) for k, (n, first, length, kind) in enumerate(drawn)]


@settings(max_examples=300, deadline=None)
@given(st.lists(spans, max_size=25))
def test_no_two_live_buffers_overlap(drawn):
    given_buffers = buffers(drawn)
    placed, size, bound = plan(given_buffers)
    assert [b.name for b in placed] == [b.name for b in given_buffers]
    assert bound == lower_bound(given_buffers)
    assert bound <= size <= sum(b.bytes for b in given_buffers)
    for b in placed:
        assert 0 <= b.offset <= size - b.bytes
        assert b.offset % 4 == 0
        for c in placed:
            together = b.first <= c.last and c.first <= b.last
            assert b is c or not together or b.offset + b.bytes <= c.offset or c.offset + c.bytes <= b.offset


@settings(max_examples=100, deadline=None)
@given(st.lists(spans, min_size=1, max_size=12))
def test_the_plan_is_the_best_of_its_orders(drawn):
    given_buffers = buffers(drawn)
    assert plan(given_buffers)[1] <= place(given_buffers[::1])[1] or len(given_buffers) > 1
    assert plan(given_buffers)[1] <= place(sorted(given_buffers, key=lambda b: (-b.bytes, b.first)))[1]


def test_a_chain_needs_only_two_neighbours():
    chain = [Buffer(f"b{k}", "uint32_t", 10 + k, k, k + 1) for k in range(8)]
    _, size, bound = plan(chain)
    assert size == bound == 4 * (16 + 17)


def test_nothing_to_place():
    assert plan([]) == ((), 0, 0)
