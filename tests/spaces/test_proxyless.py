"""Once-for-All's ProxylessNAS space."""

from __future__ import annotations

from typing import Any

import pytest

from hwnas.errors import SpaceError
from hwnas.spaces import get_space


@pytest.mark.parametrize(("index", "params", "macs"), [(-1, 7.942, 1004.9), (0, 3.719, 265.5)])
def test_once_for_all_counts(index: int, params: float, macs: float) -> None:
    space = get_space("proxyless", width=1.3)
    archs = space.architectures((space.cardinalities - 1 if index else 0 * space.cardinalities)[None])
    assert round(space.params(archs)[0] / 1e6, 3) == params
    assert round(space.macs(archs)[0] / 1e6, 1) == macs


def test_once_for_all_space() -> None:
    space = get_space("proxyless")
    stage = 9**2 + 9**3 + 9**4
    assert space.size == stage**5 * 9  # the sixth stage is one block
    assert space.choices[-1].name == "stage6.layer1.expand"
    assert get_space("proxyless", resolutions=(128, 224)).size == 2 * space.size
    assert {dict(op.attributes).get("act") for op in space.all_operators()} == {"relu6"}


def test_batch_norm_has_its_own_epsilon_and_keys_do_not_say_it() -> None:
    """A runtime sees it folded, so that tables serve whatever the epsilon."""
    space = get_space("proxyless")
    for operator in space.operators(space.sample(1, 0)[0]):
        assert {op.eps for op in operator.ops if hasattr(op, "eps")} == {1e-3}
        assert "eps" not in operator.key


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"width": 0}, "width .* give a finite positive"),
        ({"resolutions": []}, "resolutions is empty"),
        ({"stages": []}, "stages"),
    ],
)
def test_wrong_parameters_are_refused(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        get_space("proxyless", **parameters)
