from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from p2pkit.sampling import evenly_spread


@given(st.integers(0, 500), st.integers(1, 500))
def test_evenly_spread_indices_differ_and_have_nearly_equal_gaps(length: int, count: int) -> None:
    chosen = evenly_spread(length, count).tolist()
    assert len(chosen) == len(set(chosen)) == min(length, count)
    if length > 0:
        assert chosen[0] == 0
    if count > 1 and length > 0:
        assert chosen[-1] == length - 1
        gaps = {after - before for before, after in pairwise(chosen)}
        assert not gaps or max(gaps) - min(gaps) <= 1
