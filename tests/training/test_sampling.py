from __future__ import annotations

import pytest

from hwnas.errors import SpaceError
from hwnas.spaces.fixed import FixedSpace
from hwnas.training.sampling import at_each_resolution, largest, smallest

from .small_data import tiny_space


def test_largest_and_smallest_bound_the_space() -> None:
    space = tiny_space()
    macs = space.macs(space.enumerate())
    assert space.macs([largest(space)])[0] == macs.max()
    assert space.macs([smallest(space)])[0] == macs.min()
    assert smallest(space) == space.architecture({**smallest(space).values, "stage1.layer2.expand": 2})


def test_an_end_that_the_space_refuses_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    space = tiny_space()
    at, expected = space.index("resolution"), smallest(space)
    monkeypatch.setattr(space, "_valid_hook", lambda genotypes: genotypes[:, at] == 0)
    assert smallest(space) == expected
    with pytest.raises(SpaceError, match=r"refuses \{'resolution': 24, .* an end of the space.*; allow it"):
        largest(space)


def test_an_architecture_at_each_resolution(monkeypatch: pytest.MonkeyPatch) -> None:
    space = tiny_space()
    found = at_each_resolution(space, smallest(space))
    assert [space.resolution(arch) for arch in found] == [16, 24]
    assert [arch.values | {"resolution": 16} for arch in found] == [smallest(space).values] * 2
    alone = FixedSpace(space, largest(space))  # nothing to choose
    assert at_each_resolution(alone, largest(alone)) == [largest(alone)]
    at = space.index("resolution")
    monkeypatch.setattr(space, "_valid_hook", lambda genotypes: genotypes[:, at] == 0)
    assert at_each_resolution(space, smallest(space)) == [smallest(space)]
