"""Latency learnt from whole networks, or measured for each."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hwnas.errors import ChecksumError, DeviceError, TableError
from hwnas.latency.predictor import (
    LatencyPredictor,
    MeasuredLatency,
    MeasuredNetwork,
    costs,
    learn_latency,
    measured_on,
)
from hwnas.spaces import Architectures
from hwnas.store import read_json, write_json
from tests.latency.fakes import CALL_NS, FakeDevice, PinnedDevice, small_space

SPACE = small_space()


@pytest.fixture(scope="module")
def predictor() -> LatencyPredictor:
    return learn_latency(SPACE, FakeDevice(), networks=40, rounds=2, rng=0)


def truth(archs) -> np.ndarray:
    return MeasuredLatency(SPACE, measured_on(FakeDevice(), 2, 0), FakeDevice).latency_ms(archs)


def test_it_predicts_networks_that_it_has_not_seen(predictor: LatencyPredictor) -> None:
    known = {json.dumps(network.architecture) for network in predictor.networks}
    archs = [arch for arch in SPACE.sample(60, 1) if json.dumps(arch.values) not in known]
    found, expected = predictor.latency_ms(archs), truth(archs)
    assert len(archs) > 5
    assert np.abs(found / expected - 1).max() < 0.05
    assert predictor.latency_ms([]).shape == (0,)
    quality = predictor.quality
    assert quality["held_out"]["mape"] < quality["macs_baseline"]["mape"]
    assert "MAPE" in predictor.summary()


def test_the_networks_are_spread_from_the_smallest_to_the_largest(predictor: LatencyPredictor) -> None:
    chosen = [SPACE.architecture(network.architecture) for network in predictor.networks]
    assert len(chosen) == len(set(chosen)) == 40
    macs, every = SPACE.macs(chosen), SPACE.macs(SPACE.enumerate())
    assert (macs.min(), macs.max()) == (every.min(), every.max())


def test_costs_are_those_of_the_operators() -> None:
    archs = SPACE.sample(20, 0)
    found = costs(SPACE)(archs)
    squeeze = [sum("se:1" in op.key for op in SPACE.operators(arch)) for arch in archs]
    assert found.shape == (20, 8)
    np.testing.assert_array_equal(found[:, 4], squeeze)
    np.testing.assert_array_equal(found[:, 6], SPACE.params(archs))
    np.testing.assert_array_equal(found[:, 7], [len(SPACE.operators(arch)) for arch in archs])
    macs_of_squeeze = SPACE.macs(archs) - found[:, 0] - found[:, 1]
    assert ((macs_of_squeeze > 0) == (np.array(squeeze) > 0)).all()


def test_saving_keeps_it_and_a_changed_file_is_refused(predictor: LatencyPredictor, tmp_path: Path) -> None:
    path = tmp_path / "predictor.json"
    predictor.save(path)
    again = LatencyPredictor.load(path)
    archs = SPACE.sample(30, 2)
    np.testing.assert_array_equal(again.latency_ms(archs), predictor.latency_ms(archs))
    assert (again.device, again.runtime) == (predictor.device, predictor.runtime)
    data = read_json(path)
    path.write_text(path.read_text().replace('"ms": 0.0', '"ms": 0.1', 1))
    with pytest.raises(ChecksumError, match="was changed"):
        LatencyPredictor.load(path)
    for wrong in (
        {**data, "networks": data["networks"][:3]},
        {**data, "networks": [{**row, "ms": -1.0} for row in data["networks"]]},
        {key: value for key, value in data.items() if key != "runtime"},
    ):
        write_json(path, wrong)
        with pytest.raises(TableError, match="is not a latency predictor"):
            LatencyPredictor.load(path)
    write_json(path, {**data, "schema": 9})
    with pytest.raises(TableError, match="schema 9"):
        LatencyPredictor.load(path)


def test_no_prediction_is_negative() -> None:
    """Latencies that rise steeply with MACs extrapolate below zero."""
    every = SPACE.enumerate()
    macs = SPACE.macs(every)
    largest = np.argsort(macs)[-40:]
    rise = (macs[largest] - macs[largest].min()) / np.ptp(macs[largest])
    networks = [
        MeasuredNetwork(every[int(i)].values, 1.0 + 9.0 * r, 0.1, 2)
        for i, r in zip(largest, rise, strict=True)
    ]
    found = LatencyPredictor(SPACE, networks, {}, {}, {}).latency_ms(every)
    assert found.min() == pytest.approx(0.1)


def test_measured_is_what_the_device_says() -> None:
    archs = SPACE.sample(5, 0)
    found = truth(archs)
    weights = [sum(op.params for op in SPACE.operators(arch)) for arch in archs]
    assert (found > CALL_NS / 1e6).all()
    assert np.corrcoef(found, weights)[0, 1] > 0.99
    np.testing.assert_array_equal(truth(archs), found)
    opened = []
    lazy = MeasuredLatency(SPACE, measured_on(FakeDevice(), 2, 0), lambda: opened.append(1) or FakeDevice())
    assert lazy.latency_ms(archs[:0]).shape == (0,)
    assert not opened
    lazy.latency_ms(archs)
    lazy.latency_ms(Architectures(SPACE, archs.genotypes[:1]))
    assert opened == [1]


def test_networks_are_measured_on_the_cores_of_the_first_ones() -> None:
    device = PinnedDevice(3, 4)
    latency = MeasuredLatency(SPACE, measured_on(device, 2, 0), lambda: device)
    latency.latency_ms(SPACE.sample(2, 0))
    latency.latency_ms(SPACE.sample(2, 1))
    assert [plan.cores for plan in device.plans] == [(), (3,)]
    device.available = [4]
    with pytest.raises(DeviceError, match=r"on cores 3, which are no longer available.*taskset -c 3"):
        latency.latency_ms(SPACE.sample(2, 2))
    assert learn_latency(SPACE, PinnedDevice(3), 12, 2).protocol["cores"] == [3]


def test_the_source_tells_devices_and_settings_apart() -> None:
    def source(rounds: int = 2, seed: int = 0, cores: int = 1) -> str:
        facts = measured_on(FakeDevice(), rounds, seed)
        return MeasuredLatency(SPACE, {**facts, "device": {"cores": cores}}, FakeDevice).source

    assert source() == source()
    assert len({source(), source(rounds=3), source(seed=1), source(cores=2)}) == 4
    chosen = MeasuredLatency(SPACE, measured_on(FakeDevice(), 2, 0, cores=(4,)), FakeDevice)
    assert chosen.source != MeasuredLatency(SPACE, measured_on(FakeDevice(), 2, 0), FakeDevice).source
