"""The largest and the smallest architecture of a space."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hwnas.errors import SpaceError
from hwnas.spaces import SPACES, NetworkSpace, get_space
from tests.networks.small_spaces import SPACES as SMALL
from tests.training.small_data import tiny_space

PARAMETERS: dict[str, list[dict[str, Any]]] = {
    "mobilenetv3": [{}, {"width": 1.2, "resolutions": (224, 96, 160)}],
    "proxyless": [{}, {"width": 0.5, "resolutions": (64, 32), "classes": 10}],
    "resnet50": [{}, {"widths": (1.0, 0.5), "depths": (1, 0), "resolutions": (128, 224)}],
}
ALL = [get_space(name, **parameters) for name in SPACES for parameters in PARAMETERS.get(name, [{}])]
ALL += [*SMALL.values(), tiny_space()]


def test_the_ends_bound_the_space() -> None:
    space = tiny_space()
    macs = space.macs(space.enumerate())
    assert space.macs([space.largest()])[0] == macs.max()
    assert space.macs([space.smallest()])[0] == macs.min()
    assert space.smallest() == space.architecture({**space.smallest().values, "stage1.layer2.expand": 2})


@pytest.mark.parametrize("space", ALL, ids=lambda space: space.id)
def test_the_ends_have_the_extreme_value_of_every_choice(space: NetworkSpace) -> None:
    largest = space.architecture({choice.name: max(choice.values) for choice in space.choices})
    smallest = space.architecture({choice.name: min(choice.values) for choice in space.choices})
    assert (space.largest(), space.smallest()) == (largest, smallest)
    archs = space.sample(100, rng=0)
    for cost in (space.macs, space.params):
        assert cost([smallest])[0] <= cost(archs).min() <= cost(archs).max() <= cost([largest])[0]


@pytest.mark.parametrize("precisions", [("fp32", "int8"), ("int8", "fp32")])
def test_the_largest_precision_is_the_one_with_the_most_bits(precisions: tuple[str, ...]) -> None:
    plain = get_space("mobilenetv3", resolutions=(64, 96))
    space = get_space("mobilenetv3", precisions, resolutions=(64, 96))
    assert space.largest().values == {"precision": "fp32", **plain.largest().values}
    assert space.smallest().values == {"precision": "int8", **plain.smallest().values}
    assert get_space("mobilenetv3", ["int8"]).largest().values["precision"] == "int8"
    sizes = space.model_bytes([space.smallest(), space.largest()])
    assert sizes[0] < np.min(space.model_bytes(space.sample(50, 0))) < sizes[1]


def test_an_end_that_the_space_refuses_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    space = tiny_space()
    at, expected = space.index("resolution"), space.smallest()
    monkeypatch.setattr(space, "_valid_hook", lambda genotypes: genotypes[:, at] == 0)
    assert space.smallest() == expected
    with pytest.raises(SpaceError, match=r"refuses \{'resolution': 24, .* an end of the space.*; allow it"):
        space.largest()
