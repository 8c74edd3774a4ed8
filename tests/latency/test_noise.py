from __future__ import annotations

import logging
import math

import numpy as np

from hwnas.latency.measure import Samples, timings
from hwnas.latency.noise import MAX_DRIFT, MAX_TAKEN, noise
from hwnas.latency.profiling import profile
from hwnas.latency.table import LatencyTable
from tests.latency.fakes import FakeDevice, small_space

FIRST_NETWORK = 2


def one_pass(level=1.0, wall=1.0, preempted=0.0, seed=0) -> Samples:
    """Four models, two of them networks, of 1 to 4 µs, all times `level` and wall times `wall` as long."""
    generator = np.random.default_rng(seed)
    model = np.tile(np.arange(4), 20)
    time_ns = (level * 1000 * (1 + model[:, None]) * generator.normal(1, 0.01, (80, 5))).astype(np.int64)
    interrupted = generator.random((80, 5)) < preempted
    return Samples(model, time_ns, (wall * time_ns).astype(np.int64), interrupted, np.full(4, 9000))


def judged(*passes, repeatability_cv=1.0, half_width=0.01, unresolved=()):
    found = timings(passes, 4, 0)
    return noise(passes, found, FIRST_NETWORK, repeatability_cv, half_width, unresolved)


def test_a_quiet_campaign_is_not_noisy():
    found = judged(one_pass(), one_pass(seed=1), one_pass(seed=2))
    assert (found["noisy"], found["noise"]) == (False, [])
    assert found["drift"] < 0.02
    assert found["taken"] == found["preempted"] == 0


def test_each_signal_is_named():
    for passes, reason in [
        ([one_pass(preempted=0.6)] * 2, "% of runs were preempted"),
        ([one_pass(wall=1.1 / (1 - MAX_TAKEN))] * 2, "of the time of the core"),
        ([one_pass(), one_pass(level=1 + 3 * MAX_DRIFT)], "% above those of the fastest pass"),
    ]:
        found = judged(*passes)
        assert found["noisy"]
        (text,) = found["noise"]
        assert reason in text
    assert "differs from pass to pass by 7.0 %" in judged(one_pass(), repeatability_cv=7.0)["noise"][0]
    assert "uncertain by ±30 % (at most ±10 %)" in judged(one_pass(), half_width=0.3)["noise"][0]
    assert (
        "1 operators cannot be told from an empty call, such as x"
        in judged(one_pass(), unresolved=["x"])["noise"][0]
    )
    assert "uncertain without bound" in judged(one_pass(), half_width=math.inf)["noise"][0]


def test_ordinary_company_is_no_reason():
    """A core shared half the time, a few preempted runs, a drift of some percent."""
    passes = [one_pass(), one_pass(level=1.05, wall=1.9, preempted=0.1)]
    assert not judged(*passes, repeatability_cv=3.0)["noisy"]


def test_a_noisy_table_says_so(caplog):
    calls = []

    def disturb(times):
        calls.append(None)
        return (times * (1 + 0.4 * (len(calls) > 2))).astype(np.int64)

    space = small_space()
    with caplog.at_level(logging.WARNING):
        table = profile(space, FakeDevice(disturb=disturb), rounds=8)
    assert table.protocol["noisy"]
    assert "above those of the fastest pass" in caplog.text
    assert table.verdict().startswith("noisy: ")
    assert "above those of the fastest pass" in table.summary()
    assert not profile(space, FakeDevice(), rounds=8).protocol["noisy"]


def test_noise_that_drowns_operators_makes_a_noisy_table_rather_than_none(tmp_path):
    """Visits disturbed by a factor of four: some operators seem to cost less than nothing."""
    generator = np.random.default_rng(3)

    def disturb(times):
        return (times * np.exp(generator.normal(0, 1.5, (len(times), 1)))).astype(np.int64)

    space = small_space(resolutions=(8,))
    table = profile(space, FakeDevice(disturb=disturb), rounds=4, calibration_networks=4, held_out_networks=3)
    assert any("cannot be told from an empty call" in reason for reason in table.protocol["noise"])
    assert any("predicted networks are uncertain" in reason for reason in table.protocol["noise"])
    assert all(entry.ms > 0 for entry in table.operators.values())
    table.save(tmp_path / "table.json")
    assert LatencyTable.load(tmp_path / "table.json").summary()
