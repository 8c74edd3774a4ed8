from __future__ import annotations

import numpy as np

from hwnas.training.sampling import largest, sandwich, smallest

from .small_data import tiny_space


def test_largest_and_smallest_bound_the_space() -> None:
    space = tiny_space()
    macs = space.macs(space.enumerate())
    assert space.macs([largest(space)])[0] == macs.max()
    assert space.macs([smallest(space)])[0] == macs.min()
    assert smallest(space) == space.architecture({**smallest(space).values, "stage1.layer2.expand": 2})


def test_sandwich() -> None:
    space = tiny_space()
    archs = sandwich(space, 2, np.random.default_rng(0))
    assert archs[:2] == [largest(space), smallest(space)]
    assert archs[2:] == list(space.sample(2, np.random.default_rng(0)))
    assert len(sandwich(space, 0, np.random.default_rng(0))) == 2
