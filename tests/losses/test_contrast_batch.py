import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from p2pkit.losses import ContrastBatch, suspected_false_negatives


def batch_of(cell: list[int], voxel: list[int]) -> ContrastBatch:
    nothing = torch.zeros(len(cell), 2)
    return ContrastBatch(nothing, nothing, torch.tensor(cell).long(), torch.tensor(voxel).long())


def naive(cell: list[int], voxel: list[int]) -> float:
    pairs = range(len(cell))
    others = [(i, j) for i in pairs for j in pairs if i != j]
    shared = [1 for i, j in others if cell[i] == cell[j] or voxel[i] == voxel[j]]
    return len(shared) / len(others) if others else 0.0


@given(st.lists(st.tuples(st.integers(-3, 4), st.integers(0, 5)), max_size=30))
def test_fraction_equals_the_count_over_all_combinations(ids):
    cell, voxel = [i for i, _ in ids], [j for _, j in ids]
    assert suspected_false_negatives(batch_of(cell, voxel)) == pytest.approx(naive(cell, voxel))


def test_known_fractions():
    assert suspected_false_negatives(batch_of([1, 2, 3], [1, 2, 3])) == 0
    assert suspected_false_negatives(batch_of([1, 1, 1], [1, 2, 3])) == 1
    assert suspected_false_negatives(batch_of([1, 1, 2, 3], [1, 2, 2, 3])) == pytest.approx(4 / 12)


def test_large_ids_do_not_overflow():
    top = 2**62
    assert suspected_false_negatives(batch_of([top, top + 1], [-top, -top])) == 1
