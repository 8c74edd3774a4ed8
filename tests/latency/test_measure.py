from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import trim_mean

from hwnas.errors import DeviceError
from hwnas.latency.measure import Plan, Samples, shuffled_rounds, time_models, timings, trimmed_mean
from hwnas.networks.onnx_graph import onnx_model, random_weights
from tests.latency.fakes import CALL_NS, FakeDevice, small_space, weight_cost


def model(i: int) -> bytes:
    operator = small_space().all_operators()[i]
    return onnx_model([operator], [random_weights(operator, 0)]).SerializeToString()


def test_trimmed_mean_is_that_of_scipy():
    times = np.random.default_rng(0).random((4, 37))
    np.testing.assert_allclose(trimmed_mean(times), trim_mean(times, 0.1, axis=1))


def test_every_round_has_each_model_once_in_an_order_of_its_own():
    visits = np.array(shuffled_rounds(50, 4, 0)).reshape(4, 50)
    for visited in visits:
        assert sorted(visited) == list(range(50))
    assert len({tuple(visited) for visited in visits}) == 4
    assert shuffled_rounds(50, 4, 0) == shuffled_rounds(50, 4, 0) != shuffled_rounds(50, 4, 1)


def test_time_models_gives_what_the_device_measured():
    import onnx

    models = [model(0), model(3)]
    device = FakeDevice()
    found = time_models(models, device, rounds=6, rng=0)
    for timing, data in zip(found, models, strict=True):
        expected = (CALL_NS + weight_cost(onnx.load_from_string(data))) / 1e6
        assert timing.ms == pytest.approx(expected)
        assert timing.ci_ms == pytest.approx((expected, expected))
        assert timing.halves_ms == pytest.approx((expected, expected))
        assert timing.wall_ms == pytest.approx(expected + 1e-4)
        assert timing.cold_ms == pytest.approx(3 * expected)
        assert (timing.count, timing.preempted) == (6, 0.0)
        assert timing.std_ms == pytest.approx(0)
    assert device.plans[0].warmup_runs == device.plans[0].kept_runs == 5


def test_outliers_are_cut_and_spread_is_kept():
    generator = np.random.default_rng(0)

    def disturb(times):
        return np.where(generator.random(times.shape) < 0.05, 50 * times, times)

    (calm,) = time_models([model(0)], FakeDevice(), 60, 0)
    (noisy,) = time_models([model(0)], FakeDevice(disturb=disturb), 60, 0)
    assert noisy.ms == pytest.approx(calm.ms, rel=1e-9)
    assert noisy.std_ms > calm.ms
    assert noisy.ci_ms[0] <= noisy.ms <= noisy.ci_ms[1]


def test_interval_narrows_with_rounds():
    generator = np.random.default_rng(1)

    def disturb(times):
        return (times * generator.normal(1, 0.1, (len(times), 1))).astype(int)

    widths = []
    for rounds in (10, 160):
        (timing,) = time_models([model(0)], FakeDevice(disturb=disturb), rounds, 0)
        widths.append(timing.ci_ms[1] - timing.ci_ms[0])
    assert widths[1] < widths[0] / 2


def test_unusable_samples_are_refused():
    def samples(model, time):
        times = np.full((len(model), 2), time)
        return Samples(np.array(model), times, times, times < 0, np.ones(2, dtype=int))

    assert len(timings([samples([0, 1, 1, 0], 5)], 2, 0)) == 2
    with pytest.raises(DeviceError, match="model 1 was visited 1 times"):
        timings([samples([0, 1, 0], 5)], 2, 0)
    with pytest.raises(DeviceError, match="time of 0 ns, which is no positive number"):
        timings([samples([0, 1, 1, 0], 0)], 2, 0)


def test_wrong_plans_are_refused():
    with pytest.raises(DeviceError, match="rounds is 1"):
        shuffled_rounds(3, 1, 0)
    with pytest.raises(DeviceError, match="kept_runs 0"):
        Plan((), kept_runs=0)
