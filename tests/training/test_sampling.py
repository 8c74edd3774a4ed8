from __future__ import annotations

import pytest

from hwnas.errors import SpaceError
from hwnas.training.sampling import largest, smallest

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
