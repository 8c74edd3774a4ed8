from __future__ import annotations

from hwnas.training.sampling import largest, smallest

from .small_data import tiny_space


def test_largest_and_smallest_bound_the_space() -> None:
    space = tiny_space()
    macs = space.macs(space.enumerate())
    assert space.macs([largest(space)])[0] == macs.max()
    assert space.macs([smallest(space)])[0] == macs.min()
    assert smallest(space) == space.architecture({**smallest(space).values, "stage1.layer2.expand": 2})
