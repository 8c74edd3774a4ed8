"""Once-for-All's ResNet50 space."""

from __future__ import annotations

from typing import Any

import pytest

from hwnas.errors import SpaceError
from hwnas.spaces import get_space
from hwnas.spaces.resnet50 import ResNet50Space


@pytest.mark.parametrize(("index", "params", "macs"), [(-1, 48.106, 7491.6), (0, 6.539, 962.2)])
def test_once_for_all_counts(index: int, params: float, macs: float) -> None:
    space = get_space("resnet50")
    archs = space.architectures((space.cardinalities - 1 if index else 0 * space.cardinalities)[None])
    assert round(space.params(archs)[0] / 1e6, 3) == params
    assert round(space.macs(archs)[0] / 1e6, 1) == macs


def test_once_for_all_space() -> None:
    space = get_space("resnet50")
    stem, short, long = 2 * 2 * 3, 3 * (3**2 + 3**3 + 3**4), 3 * (3**4 + 3**5 + 3**6)
    assert space.size == stem * short**3 * long
    assert f"{space.size:.2e}" == "1.64e+12"
    assert len(space.all_operators()) == 157


def test_subnets_of_once_for_all_by_its_lists() -> None:
    space = ResNet50Space()
    values = space.ofa_values(d=[2, 0, 1, 2, 0], e=[0.2] * 17 + [0.35], w=[1, 0, 2, 1, 0, 2])
    assert values["stem.block"] is True
    assert [values[f"stage{i}.depth"] for i in (1, 2, 3, 4)] == [2, 3, 6, 2]
    assert [values[f"stage{i}.width"] for i in (1, 2, 3, 4)] == [256, 408, 664, 2048]
    assert (values["stem.mid"], values["stem.width"]) == (24, 40)
    assert values["stage4.layer4.expand"] == 0.35
    assert "stage4.layer4.expand" not in space.architecture(values).values  # that block is skipped
    same = space.ofa_values(d=[2, 0, 1, 2, 0], e=[0.2] * 18, w=[0, 0, 2, 1, 0, 2])
    assert space.architecture(same) == space.architecture(values)
    assert space.ofa_values(d=[1, 0, 1, 2, 0], e=[0.2] * 18, w=[0] * 6)["stem.block"] is False


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ({"d": [2] * 4, "e": [0.2] * 18, "w": [0] * 6}, "d has 4 values, a subnet has 5"),
        ({"d": [2] * 5, "e": [0.2] * 16, "w": [0] * 6}, "e has 16 values, a subnet has 18"),
        ({"d": [2] * 5, "e": [0.2] * 18, "w": [0, 0, 3, 0, 0, 0]}, "give positions in widths"),
        ({"d": [7, 2, 2, 2, 2], "e": [0.2] * 18, "w": [0] * 6}, r"d begins with 7, .* one of \(0, 1, 2\)"),
    ],
)
def test_wrong_lists_are_refused(lists: dict[str, Any], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        ResNet50Space().ofa_values(**lists)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"widths": []}, "widths is a list of one or more numbers"),
        ({"widths": 1.0}, "widths is a list of one or more numbers, got 1.0"),
        ({"widths": [0]}, "widths: give a finite positive number, got 0"),
        ({"depths": [-1]}, "depths: give integers of 0 to 1,000, got -1"),
        ({"depths": [0.5]}, "depths: give integers of 0 to 1,000, got 0.5"),
        ({"ratios": [0.2, 0.21]}, r"ratios .* of 168 channels \(stage1\) round to \[32, 32\]"),
        ({"classes": 0}, "classes: give integers of 1 to 100,000, got 0"),
        ({"resolutions": 224}, "resolutions is a list of pixels"),
    ],
)
def test_wrong_parameters_are_refused(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        get_space("resnet50", **parameters)


def test_single_values_are_no_choices() -> None:
    space = get_space("resnet50", widths=[1.0], depths=[1], ratios=[0.25])
    assert [choice.name for choice in space.choices] == ["stem.block"]
    assert space.size == 2
