"""Spaces whose choices keep only some of their values."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import hwnas
from hwnas.errors import SpaceError
from hwnas.latency.devices import DEVICES
from hwnas.networks.calibration import calibrate
from hwnas.networks.supernet import Supernet, load_supernet
from hwnas.spaces import SPACES, Architectures, Choice, SearchSpace, get_space, space_of
from hwnas.spaces.restrict import RestrictedNetworkSpace
from tests.latency.fakes import ComputedRuntime, small_space
from tests.latency.test_table import table
from tests.networks.small_spaces import SPACES as SMALL
from tests.networks.small_spaces import batches, lively_supernet
from tests.spaces.two_inputs import TwoInputs, token_batch

from .test_base import depth_space, spaces


@st.composite
def parts(draw: st.DrawFn, space: SearchSpace) -> dict[str, list[Any]]:
    """A restriction of some choices of a space."""
    chosen = draw(st.lists(st.sampled_from(space.choices), unique=True))
    return {
        choice.name: draw(st.lists(st.sampled_from(choice.values), min_size=1, unique=True))
        for choice in chosen
    }


def kept(whole: SearchSpace, values: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """Values of the architectures of the whole space whose active values are kept, one at a time."""
    return [
        arch.values
        for arch in whole.enumerate()
        if all(value in values.get(name, [value]) for name, value in arch.values.items())
    ]


def unordered(dicts: list[dict[str, Any]]) -> list[str]:
    return sorted(json.dumps(values, sort_keys=True) for values in dicts)


@given(spaces(), st.data())
@settings(deadline=None, max_examples=50)
def test_a_part_has_exactly_the_architectures_whose_values_are_kept(
    whole: SearchSpace, data: st.DataObject
) -> None:
    values = data.draw(parts(whole))
    part = whole.restrict(values)
    every = part.enumerate()
    assert part.size == len(every)
    assert unordered([arch.values for arch in every]) == unordered(kept(whole, values))
    assert whole.valid(part.to_whole(every)).all()
    assert [arch.values for arch in part.to_whole(every)] == [arch.values for arch in every]
    assert part.to_part(part.to_whole(every)) == every
    for arch in every[:5]:
        assert part.to_part(part.to_whole(arch)) == arch
        assert part.architecture(arch.values) == arch


def hooked_space() -> SearchSpace:
    """Two equal branches in any order, at most four channels together, and an optional head."""
    return SearchSpace(
        "hooked",
        [
            Choice("left", (0, 1, 2, 3), group="branch"),
            Choice("right", (0, 1, 2, 3), group="branch"),
            Choice("head", (False, True)),
            Choice("head.width", (8, 16, 24), {"head": True}),
        ],
        canonical=_sorted,
        valid=lambda genotypes: genotypes[:, :2].sum(axis=1) <= 4,
    )


def _sorted(genotypes: Any) -> Any:
    return np.concatenate([np.sort(genotypes[:, :2], axis=1), genotypes[:, 2:]], axis=1)


@given(parts(hooked_space()))
@settings(deadline=None, max_examples=30)
def test_hooks_and_conditions_hold_in_a_part(values: dict[str, list[Any]]) -> None:
    whole = hooked_space()
    expected = kept(whole, values)
    if not expected:
        with pytest.raises(SpaceError, match=r"no architecture of hooked-.* is left with .*; keep more"):
            whole.restrict(values)
        return
    part = whole.restrict(values)
    every = part.enumerate()
    assert part.has_hooks
    assert unordered([arch.values for arch in every]) == unordered(expected)
    assert np.array_equal(part.canonical(every), every.genotypes)
    drawn = part.sample(20, rng=0)
    assert {arch.id for arch in drawn} <= {arch.id for arch in every}
    assert part.to_part(part.to_whole(drawn)) == drawn


def test_equal_networks_are_equal_in_a_part() -> None:
    part = hooked_space().restrict({"left": [0, 1, 2]})
    one, other = (part.architecture({"left": a, "right": b, "head": False}) for a, b in ((2, 1), (1, 2)))
    assert one == other


def test_a_part_keeps_names_order_conditions_and_groups() -> None:
    part = depth_space().restrict({"depth": (2, 1), "layer2.kernel": {5}})
    assert [c.name for c in part.choices] == [c.name for c in depth_space().choices]
    assert part.choices[0].values == (1, 2)
    assert part.choices[2] == Choice("layer2.kernel", (5,), (("depth", (2,)),), "kernel")
    assert part.choices[3].requires == (("depth", ()),)  # a layer that no architecture of the part has
    assert part.architecture(
        {"depth": 2, "layer1.kernel": 3, "layer2.kernel": 5, "width": "wide"}
    ).values == {
        "depth": 2,
        "layer1.kernel": 3,
        "layer2.kernel": 5,
        "width": "wide",
    }
    assert "kernel=5" in part.feature_names
    assert part.features(part.sample(3, 0)).shape == (3, len(part.feature_names))


def test_a_part_of_a_part_is_a_part_of_the_whole() -> None:
    whole = depth_space()
    part = whole.restrict({"depth": [1, 2]}).restrict({"depth": [2], "width": ["wide"]})
    assert part == whole.restrict({"width": ["wide"], "depth": [2]})
    assert part.whole is whole or part.whole == whole
    assert part != whole.restrict({"depth": [2]})
    with pytest.raises(SpaceError, match=r"depth: 3 is not one of its values \(1, 2\)"):
        whole.restrict({"depth": [1, 2]}).restrict({"depth": [3]})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"dept": [1]}, r"space 'toy' has no choice 'dept'; it has depth, layer1\.kernel"),
        ({"depth": [1, 4]}, r"restriction of depth: 4 is not one of its values \(1, 2, 3\); leave it out"),
        ({"layer3.se": [1]}, r"restriction of layer3\.se: 1 is not one of its values \(False, True\)"),
        ({"depth": []}, r"restriction of depth keeps no value; give at least one of \(1, 2, 3\)"),
        ({"depth": 2}, r"restriction of depth: values is a list, such as \(3, 5\), got 2"),
        (
            [("depth", [2])],
            r"a restriction maps names of choices to lists of values, .*, got \[\('dep",
        ),
    ],
)
def test_wrong_restrictions_are_named(values: Any, message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        depth_space().restrict(values)


def test_architectures_outside_of_the_part_are_refused() -> None:
    whole = depth_space()
    part = whole.restrict({"depth": [1, 3]})
    outside = whole.architecture({"depth": 2, "layer1.kernel": 3, "layer2.kernel": 3, "width": "wide"})
    with pytest.raises(SpaceError, match=r"depth is 2 in an architecture; .* of toy-.* keeps \(1, 3\)"):
        part.to_part(outside)
    with pytest.raises(SpaceError, match=r"these architectures are of space random"):
        part.to_whole(SearchSpace("random", whole.choices).sample(2, 0))
    with pytest.raises(SpaceError, match="expected architectures, got an array"):
        part.to_whole(np.zeros((1, 6), dtype=int))  # type: ignore[call-overload]


def test_sets_of_mixed_origin_are_translated() -> None:
    whole = depth_space()
    part, other = whole.restrict({"depth": [3]}), whole.restrict({"width": ["wide"]})
    archs = [part.sample(1, 0)[0], other.sample(1, 0)[0], whole.sample(1, 0)[0]]
    assert [arch.values for arch in Architectures(whole, whole.genotypes(archs))] == [a.values for a in archs]


def test_a_part_can_be_pickled() -> None:
    whole = SearchSpace("own", [Choice("left", (0, 1, 2)), Choice("right", (0, 1, 2))], canonical=_sorted)
    part = whole.restrict({"left": [0, 1]})
    again = pickle.loads(pickle.dumps(part))
    assert (again, again.has_hooks) == (part, True)
    assert again.to_whole(again.enumerate()) == part.to_whole(part.enumerate())


# ---- networks -------------------------------------------------------------------------------------

RESTRICTIONS: dict[str, dict[str, Any]] = {
    "mobilenetv3": {"resolution": [64], "stage1.depth": [2, 3], "stage2.layer1.kernel": [7, 3]},
    "proxyless": {"resolution": [96], "stage3.depth": [2], "stage1.layer2.expand": [6]},
    "resnet50": {
        "resolution": [64],
        "stage4.depth": [2, 4],
        "stem.block": [True],
        "stage1.layer1.expand": [0.2],
    },
}


def network_part(name: str) -> RestrictedNetworkSpace:
    return get_space(name, resolutions=(64, 96)).restrict(RESTRICTIONS[name])


@pytest.mark.parametrize("name", SPACES)
def test_a_network_has_the_same_operators_in_part_and_whole(name: str) -> None:
    part = network_part(name)
    whole, archs = part.whole, part.sample(20, rng=0)
    above = part.to_whole(archs)
    for cost in ("macs", "params", "model_bytes", "peak_activation_bytes"):
        values = getattr(part, cost)(archs)
        assert np.array_equal(values, getattr(whole, cost)(above))
        assert np.array_equal(values, getattr(whole, cost)(archs))  # translated
    for arch, same in zip(archs[:3], above[:3], strict=True):
        assert part.lower(arch) == whole.lower(same) == whole.lower(arch) == part.lower(same)
        assert arch.values == same.values
        assert (part.resolution(arch), part.precision(arch)) == (whole.resolution(same), "fp32")
    assert set(part.all_operators()) < set(whole.all_operators())
    assert part.input_shape == (3, part.choices[0].values[0], part.choices[0].values[0])
    assert 1 < part.size < whole.size


@pytest.mark.parametrize("name", SPACES)
def test_a_definition_makes_the_part_again(name: str) -> None:
    part = network_part(name)
    again = space_of(json.loads(json.dumps(part.definition)))
    assert (again, again.definition) == (part, part.definition)
    assert again.id.startswith(f"{name}-")
    assert again != part.whole
    assert again.genotypes(part.sample(3, 0)).tolist() == part.sample(3, 0).genotypes.tolist()
    with pytest.raises(SpaceError, match="has no choice 'x'"):
        space_of({**part.whole.definition, "restrict": {"x": [1]}})


def test_the_ends_of_a_part_are_those_of_its_values() -> None:
    space = get_space("mobilenetv3", ["int8", "fp32"], resolutions=(64, 96))
    part = space.restrict({"stage1.depth": [3, 2], "resolution": [64]})
    assert part.largest().values == {
        **{k: v for k, v in space.largest().values.items() if not k.startswith("stage1.layer4")},
        "stage1.depth": 3,
        "resolution": 64,
    }
    assert part.smallest().values["precision"] == "int8"
    assert part.precision(part.largest()) == space.precision(part.largest()) == "fp32"
    assert space_of(part.definition) == part


def test_a_block_that_every_architecture_skips_has_no_weights() -> None:
    """The network has two inputs, so the blocks after the skipped one read values by name."""
    part = TwoInputs().restrict({"depth": [1], "length": [8]})
    net = lively_supernet(part)
    assert not list(net.slots["decoder2"].parameters())
    assert part.size_name == "length"
    for arch in part.enumerate():
        assert part.inputs(arch) == part.whole.inputs(part.to_whole(arch))
        batch = token_batch(8)
        statistics = calibrate(net, arch, [batch])
        with torch.no_grad():
            torch.testing.assert_close(net.extract(arch, statistics)(batch), net(batch, arch, statistics))


@pytest.mark.parametrize("name", SMALL)
def test_a_supernet_of_the_whole_runs_the_architectures_of_a_part(name: str) -> None:
    whole = SMALL[name]
    net = lively_supernet(whole)
    part = whole.restrict({"resolution": whole.choices[0].values[:1]})
    size = part.choices[0].values[0]
    images = batches(whole, size)
    for arch in part.sample(3, rng=0):
        same = part.to_whole(arch)
        statistics, expected = calibrate(net, arch, images), calibrate(net, same, images)
        with torch.no_grad():
            assert torch.equal(net(images[0], arch, statistics), net(images[0], same, expected))
            plain = net.extract(arch, statistics)
            assert torch.equal(plain(images[0]), net.extract(same, expected)(images[0]))


def test_a_supernet_of_a_part_runs_architectures_of_the_whole_and_is_stored(tmp_path: Path) -> None:
    whole = SMALL["mbconv"]
    part = whole.restrict({"stage2.depth": [1], "stage3.layer1.kernel": [3]})
    net = Supernet(part, rng=0)
    assert sum(p.numel() for p in net.parameters()) < sum(p.numel() for p in Supernet(whole).parameters())
    net.save(tmp_path)
    loaded = load_supernet(tmp_path)
    assert (loaded.space, loaded.checksum) == (part, net.checksum)
    loaded = load_supernet(tmp_path, space=part)
    arch = part.sample(1, rng=0)[0]
    images = batches(whole, 20)
    statistics = calibrate(net, arch, images)
    with torch.no_grad():
        assert torch.equal(
            loaded.eval()(images[0], part.to_whole(arch), calibrate(net, part.to_whole(arch), images)),
            net.eval()(images[0], arch, statistics),
        )
    with pytest.raises(SpaceError, match=r"stage2\.depth is 2 in an architecture; this part of mobilenetv3-"):
        net.train()(images[0], whole.largest())


def test_a_part_is_searched_by_the_table_of_the_whole(caplog: pytest.LogCaptureFixture) -> None:
    whole = small_space()
    part = whole.restrict({"resolution": [12]})
    archs = part.sample(20, rng=0)
    assert np.array_equal(table().latency_ms(archs), table().latency_ms(part.to_whole(archs)))
    assert not caplog.records  # the calibration is that of the whole
    objectives = [
        hwnas.Objective("params", "max", evaluate=part.params, expensive=True),
        hwnas.Objective("latency_ms", "min", evaluate=table().latency_ms),
    ]
    result = hwnas.search(part, objectives=objectives, strategy="linas", evaluations=12, seed=0)
    assert {e.architecture.values["resolution"] for e in result.evaluations} == {12}
    assert len({e.architecture.id for e in result.evaluations}) == 12


@pytest.mark.usefixtures("still_clock")
def test_a_part_is_profiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DEVICES, "onnxruntime", ComputedRuntime)
    part = small_space().restrict({"resolution": [12]})
    own = hwnas.profile(part, "onnxruntime", rounds=4, calibration_networks=3, held_out_networks=3)
    assert own.operators.keys() == {operator.key for operator in part.all_operators()}
    assert [c["space"] for c in own.calibration] == [part.id]
