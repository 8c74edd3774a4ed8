from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hwnas.errors import TrainingError
from hwnas.spaces import Architecture, NetworkSpace, get_space
from hwnas.training.strategies import BUCKETS, Attentive, Subnet, get_strategy

from .small_data import tiny_space


def no_loss(arch: Architecture) -> float:
    return 0.0


def subnets(name: str, space: NetworkSpace, step: int = 0, **parameters: Any) -> list[Subnet]:
    strategy = get_strategy(name, space, 100, **parameters)
    return strategy.subnets(step, np.random.default_rng(0), no_loss)


def test_sandwich() -> None:
    space = tiny_space()
    found = subnets("sandwich", space)
    random = list(space.sample(2, np.random.default_rng(0)))
    assert [subnet.arch for subnet in found] == [space.largest(), space.smallest(), *random]
    assert [(subnet.labels, subnet.teacher) for subnet in found] == [(1, 0), (0, 1), (0, 1), (0, 1)]
    assert len(subnets("sandwich", space, random_subnets=0)) == 2


def test_uniform_trains_one_subnet_on_labels() -> None:
    space = tiny_space()
    assert subnets("uniform", space) == [Subnet(space.sample(1, np.random.default_rng(0))[0], 1, 0)]


def full_space() -> NetworkSpace:
    """Every kind of choice of a stage table."""
    stage = {"block": "mbconv", "depth": [1, 2, 3], "kernel": [3, 5, 7], "expand": [2, 3, 4]}
    return get_space(
        "mobilenetv3",
        resolutions=(16, 24),
        classes=4,
        stem={"width": [8]},
        stages=[{**stage, "width": [16, 24], "stride": 2}],
        head={"width": 32},
    )


@pytest.mark.parametrize("mode", ["best", "worst"])
def test_attentive_trains_the_best_or_worst_of_alike_candidates(mode: str) -> None:
    space = full_space()
    strategy = get_strategy("attentive", space, 100, 2, {"mode": mode, "candidates": 4})
    asked: list[Architecture] = []

    def batch_loss(arch: Architecture) -> float:
        asked.append(arch)
        return float(arch.values["stage1.depth"]) + len(asked) / 1000

    found = strategy.subnets(0, np.random.default_rng(0), batch_loss)
    assert [subnet.arch for subnet in found[:2]] == [space.largest(), space.smallest()]
    assert len(found) == 4
    assert len(asked) == 8
    for chosen, candidates in ((found[2].arch, asked[:4]), (found[3].arch, asked[4:])):
        depths = [arch.values["stage1.depth"] for arch in candidates]
        assert chosen.values["stage1.depth"] == (min(depths) if mode == "best" else max(depths))
        macs = space.macs(candidates)
        span = space.macs([space.largest()])[0] - space.macs([space.smallest()])[0]
        assert macs.max() - macs.min() <= span / BUCKETS


def test_attentive_draws_as_many_macs_as_random_architectures_have() -> None:
    """The mean of what is drawn is that of the space, and every bucket that has members gives some."""
    space = full_space()
    strategy = Attentive(space, 100, candidates=1)
    rng = np.random.default_rng(0)
    drawn = [strategy._attended(rng, no_loss) for _ in range(400)]
    expected = space.macs(space.sample(4000, 1))
    assert space.macs(drawn).mean() == pytest.approx(expected.mean(), rel=0.05)
    for bucket in np.unique(strategy._bucket_of):
        found = strategy.drawn(bucket, 5, rng)
        assert set(strategy._buckets(found.genotypes)) == {bucket}


def test_attentive_buckets_may_be_given() -> None:
    strategy = Attentive(full_space(), 100, bucket_mmacs=1000.0)
    assert set(strategy._bucket_of) == {0}


def test_progressive_opens_kernels_depths_expansions_widths_in_turn() -> None:
    space = full_space()
    strategy = get_strategy("progressive", space, 6550)
    seen = []
    for phase in strategy.phases:
        archs = []
        for step in np.linspace(phase.start, phase.end - 1, 60).astype(int):
            found = strategy.subnets(int(step), np.random.default_rng(step), no_loss)
            archs += [subnet.arch for subnet in found]
        values = [arch.values for arch in archs]
        fields = ("kernel", "depth", "expand", "width", "resolution")
        seen.append([len({v[k] for v in values for k in v if k.rpartition(".")[2] == f}) for f in fields])
        assert {subnet.labels for subnet in found} == {1}
        assert {subnet.teacher for subnet in found} == {0.0 if phase.start == 0 else 1.0}
    # Two widths, so one phase opens them.
    assert seen == [
        [1, 1, 1, 1, 2],
        [3, 1, 1, 1, 2],
        [3, 2, 1, 1, 2],
        [3, 3, 1, 1, 2],
        [3, 3, 2, 1, 2],
        [3, 3, 3, 1, 2],
        [3, 3, 3, 2, 2],
    ]
    lengths = [phase.end - phase.start for phase in strategy.phases]
    assert np.allclose(np.array(lengths) / 6550, np.array([180, 125, 25, 125, 25, 125, 25]) / 630, atol=1e-3)
    assert [phase.keep_teacher for phase in strategy.phases] == [False, True, *5 * [False]]
    # Before each of the two phases of expansions, within what was open until then.
    expand = space.index("stage1.layer1.expand")
    opened = [None if p.sort_channels is None else p.sort_channels[expand] for p in strategy.phases]
    assert [None if o is None else sorted(o) for o in opened] == [*4 * [None], [2], [1, 2], None]
    counts = [len(strategy.subnets(p.start, np.random.default_rng(0), no_loss)) for p in strategy.phases]
    assert counts == [1, 1, 2, 2, 4, 4, 4]


def test_progressive_skips_what_a_space_has_not() -> None:
    strategy = get_strategy("progressive", tiny_space(), 20)  # one kernel, two depths, expansions and widths
    assert len(strategy.phases) == 4
    assert all(phase.end > phase.start for phase in get_strategy("progressive", tiny_space(), 4).phases)
    with pytest.raises(TrainingError, match=r"has 4 phases, training\.steps is 3"):
        get_strategy("progressive", tiny_space(), 3)


@pytest.mark.parametrize("space", [tiny_space(), get_space("mobilenetv3")], ids=["tiny", "ofa"])
def test_no_phase_of_progressive_is_empty(space: NetworkSpace) -> None:
    fewest = len(get_strategy("progressive", space, 1000).phases)
    for steps in range(fewest, 100):
        ends = [phase.end for phase in get_strategy("progressive", space, steps).phases]
        assert len(ends) == fewest
        assert np.diff([0, *ends]).min() >= 1
        assert ends[-1] == steps


def test_progressive_leaves_the_precision_free() -> None:
    space = get_space("mobilenetv3", precisions=["fp32", "int8"])
    strategy = get_strategy("progressive", space, 100)
    rng = np.random.default_rng(0)
    drawn = {s.arch.values["precision"] for i in range(20) for s in strategy.subnets(i, rng, no_loss)}
    assert drawn == {"fp32", "int8"}


def test_progressive_draws_what_the_space_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    space = tiny_space()
    column, resolution = space.index("stage1.width"), space.index("resolution")
    monkeypatch.setattr(space, "_valid_hook", lambda g: (g[:, resolution] == 1) | (g[:, column] == 0))
    strategy = get_strategy("progressive", space, 40)
    for step in range(40):
        archs = [subnet.arch for subnet in strategy.subnets(step, np.random.default_rng(step), no_loss)]
        assert space.valid(archs).all()


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("sandwhich", {}, "unknown training.strategy 'sandwhich'; known: sandwich, attentive"),
        ("uniform", {"k": 3}, "training.strategy uniform has no parameter 'k'; it has none"),
        ("attentive", {"k": 3}, "no parameter 'k'; it has mode, candidates, bucket_mmacs"),
        ("sandwich", {"steps": 3}, "no parameter 'steps'"),
        ("attentive", {"mode": "up"}, "mode is 'up'; give best or worst"),
        ("attentive", {"candidates": 0}, "candidates is 0; give 1 or more"),
        ("attentive", {"candidates": True}, "candidates is True"),
        ("attentive", {"bucket_mmacs": -1}, "bucket_mmacs is -1"),
    ],
)
def test_wrong_strategies_are_refused(name: str, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        get_strategy(name, tiny_space(), 100, 2, parameters)
