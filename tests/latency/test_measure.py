from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import trim_mean

from hwnas.errors import DeviceError, TimingError
from hwnas.latency.measure import Plan, Samples, shuffled_rounds, time_models, timings, trimmed_mean
from hwnas.ops.onnx import onnx_model, random_weights
from tests.latency.fakes import CALL_NS, FakeDevice, small_space, weight_cost


def model(i: int) -> bytes:
    operator = small_space().all_operators()[i]
    return onnx_model([operator], [random_weights(operator, 0)]).SerializeToString()


def test_trimmed_mean_is_that_of_scipy():
    times = np.random.default_rng(0).random((4, 37))
    np.testing.assert_allclose(trimmed_mean(times), trim_mean(times, 0.1, axis=1))


def test_trimmed_mean_leaves_nan_out():
    times = np.random.default_rng(0).random((2, 3, 37))
    times[0, 1, [3, 30]] = np.nan
    expected = trim_mean(np.delete(times[0, 1], [3, 30]), 0.1)
    np.testing.assert_allclose(trimmed_mean(times)[0, 1], expected)
    np.testing.assert_allclose(trimmed_mean(times[0, 1]), expected)
    np.testing.assert_allclose(trimmed_mean(times)[1], trim_mean(times[1], 0.1, axis=1))


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


def with_zeros(zeros, readings=2000, models=2) -> Samples:
    """Samples of two models with so many readings, the first of which are 0 ns."""
    times = np.full(readings, 5000)
    times[:zeros] = 0
    times = times.reshape(-1, 5)
    visited = np.arange(len(times)) % models
    return Samples(visited, times, times + 9, times == 0, np.ones(models, dtype=int))


def test_a_single_impossible_reading_is_dropped_and_counted():
    for readings in (20, 2000):
        first, second = timings([with_zeros(1, readings)], 2, 0)
        assert (first.dropped_readings, second.dropped_readings) == (1, 0)
        assert (first.ms, *first.ci_ms, *first.halves_ms) == pytest.approx((0.005,) * 5)
        assert first.count == readings // 10
    timing = timings([with_zeros(5, 5000)], 2, 0)[0]
    assert (timing.dropped_readings, timing.count) == (5, 499)  # a whole visit
    assert timing.ms == pytest.approx(0.005)


def test_more_than_one_impossible_reading_in_a_thousand_is_a_broken_clock():
    assert timings([with_zeros(2)], 2, 0)[0].ms == pytest.approx(0.005)
    with pytest.raises(TimingError, match=r"time of 0 ns.*3 of 2000 timed runs.*measure again"):
        timings([with_zeros(3)], 2, 0)
    with pytest.raises(TimingError, match="2 of 1500 timed runs"):  # over all passes
        timings([with_zeros(1, 750), with_zeros(1, 750)], 2, 0)


def test_a_model_whose_time_the_clock_cannot_resolve_is_refused():
    """Its 10 impossible readings are fewer than one in a thousand of all."""
    samples = with_zeros(0, 20_000, models=1)
    samples.time_ns[:2] = -1
    samples.model[:2] = 1
    with pytest.raises(TimingError, match="time of -1 ns"):
        timings([samples], 2, 0)


def test_wrong_plans_are_refused():
    with pytest.raises(DeviceError, match="rounds is 1"):
        shuffled_rounds(3, 1, 0)
    with pytest.raises(DeviceError, match="kept_runs 0"):
        Plan((), kept_runs=0)
