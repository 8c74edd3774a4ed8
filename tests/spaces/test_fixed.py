"""The space of one architecture."""

from __future__ import annotations

import pytest

from hwnas.errors import SpaceError
from hwnas.spaces import SPACES, get_space
from hwnas.spaces.fixed import FixedSpace


@pytest.mark.parametrize("name", SPACES)
def test_it_has_the_operators_of_the_architecture_and_nothing_else(name: str) -> None:
    space = get_space(name)
    for arch in space.sample(3, 0):
        fixed = FixedSpace(space, arch)
        own = fixed.architecture(arch.values)
        assert fixed.size == 1
        assert own.values == arch.values
        assert fixed.lower(own) == space.lower(arch)
        assert (fixed.macs([own]), fixed.params([own])) == (space.macs([arch]), space.params([arch]))
        assert fixed.resolution(own) == space.resolution(arch) == fixed.input_shape[1]
        assert list(fixed.sample(2, 0)) == [own, own]


def test_spaces_of_different_architectures_are_different() -> None:
    space = get_space("mobilenetv3")
    one, other = space.sample(2, 0)
    assert FixedSpace(space, one) != FixedSpace(space, other)
    assert FixedSpace(space, one) == FixedSpace(space, one)
    with pytest.raises(SpaceError, match="are of space"):
        FixedSpace(get_space("mobilenetv3", resolutions=(32,)), one)
