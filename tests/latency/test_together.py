"""Models timed together: intervals over passes, and more passes where these do not decide."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwnas.errors import DeviceError
from hwnas.latency.together import MOST_PASSES, PASSES, STABLE, Latency, student_interval, time_together
from hwnas.ops.onnx import onnx_model, random_weights
from hwnas.spaces import Operator
from tests.latency.fakes import CALL_NS, FakeDevice, PinnedDevice


def model(channels: int) -> bytes:
    shape = (channels, 4, 4)
    operator = Operator("conv", shape, shape, (("k", 1), ("s", 1), ("act", "identity")))
    return onnx_model([operator], [random_weights(operator, 0)]).SerializeToString()


def cost(proto: onnx.ModelProto) -> int:
    """1 µs a channel, call included."""
    return 1000 * proto.graph.input[0].type.tensor_type.shape.dim[1].dim_value - CALL_NS


class Shifting(FakeDevice):
    """Every pass has a level of its own."""

    def __init__(self, *levels: float) -> None:
        super().__init__(cost)
        self.levels = levels
        self.disturb = lambda times: (times * self.levels[(len(self.plans) - 1) % len(levels)]).astype(
            np.int64
        )


MODELS = [model(8), model(16), model(24)]


def test_a_latency_is_the_mean_of_its_passes() -> None:
    device = Shifting(0.99, 1.0, 1.01)
    found = time_together(MODELS, device, rounds=12)
    assert len(device.plans) == PASSES
    for plan in device.plans:
        assert sorted(plan.visits) == sorted([(0,), (1,), (2,)] * 2)
    assert len({plan.visits for plan in device.plans}) > 1  # each in an order of its own
    for latency, ms in zip(found.latencies, (0.008, 0.016, 0.024), strict=True):
        assert latency.ms == pytest.approx(ms, rel=1e-3)
        assert latency.passes_ms == pytest.approx([ms * level for level in (0.99, 1, 1.01)] * 2, rel=1e-3)
        low, high = latency.ci_ms
        assert low < ms < high
        assert latency.half_width == pytest.approx(
            2.5706 * np.std([0.99, 1, 1.01] * 2, ddof=1) / 6**0.5, rel=0.02
        )
        assert latency.stable
    assert found.noise == ()


def test_what_is_undecided_is_timed_for_longer_alone() -> None:
    device = Shifting(0.95, 1.05)
    asked = []

    def decided(model: int, latency: Latency) -> bool:
        asked.append((model, len(latency.passes_ms)))
        return model != 1 or len(latency.passes_ms) > PASSES

    found = time_together(MODELS, device, 12, decided=decided)
    assert [len(latency.passes_ms) for latency in found.latencies] == [PASSES, 2 * PASSES, PASSES]
    assert all(set(plan.visits) == {(0,)} for plan in device.plans[PASSES:])
    assert asked == [(0, PASSES), (1, PASSES), (2, PASSES), (1, 2 * PASSES)]
    assert found.latencies[1].ms == pytest.approx(0.016, rel=1e-3)
    assert found.latencies[1].half_width < found.latencies[0].half_width
    device = Shifting(0.95, 1.05)
    time_together(MODELS, device, 12, decided=lambda model, latency: False)
    assert len(device.plans) == MOST_PASSES


def test_no_models_take_no_time() -> None:
    device = FakeDevice(cost)
    assert time_together([], device).latencies == ()
    assert not device.plans


def test_what_disturbs_is_said() -> None:
    found = time_together(MODELS, Shifting(1.0, 1.5), 12)
    (reason,) = found.noise
    assert "above those of the fastest pass" in reason
    assert not found.latencies[0].stable


def test_stable_is_within_five_percent() -> None:
    def of(half: float) -> Latency:
        return Latency(1.0, (1 - half, 1 + half), (1.0, 1.0), 1.0, 0.0)

    assert of(STABLE - 1e-3).stable
    assert not of(STABLE + 1e-3).stable


@given(st.lists(st.floats(-10.0, 10.0), min_size=2, max_size=30))
def test_an_interval_is_around_its_mean(values: list[float]) -> None:
    low, high = student_interval(values)
    assert (low + high) / 2 == pytest.approx(np.mean(values), abs=1e-9)
    assert low <= high


def test_no_latency_is_below_zero() -> None:
    found = time_together(MODELS, Shifting(0.1, 4.0), 12)
    assert all(latency.ci_ms[0] == 0 for latency in found.latencies)


def test_an_interval_holds_the_truth_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    found = [student_interval(generator.normal(1, 0.05, 6).tolist()) for _ in range(2000)]
    assert np.mean([low <= 1 <= high for low, high in found]) == pytest.approx(0.95, abs=0.015)


def test_progress_is_that_of_all_passes() -> None:
    seen: list[Any] = []
    time_together(MODELS, FakeDevice(cost), 12, progress=lambda *report: seen.append(report))
    assert [text.split(":")[0] for _, _, text in seen] == [
        f"pass {i} of {PASSES}" for i in range(1, PASSES + 1)
    ]
    assert seen[-1][0] == seen[-1][1]


def test_one_impossible_reading_is_dropped_and_counted() -> None:
    def disturb(times: np.ndarray) -> np.ndarray:
        disturbed = times.copy()
        if len(device.plans) == 1:
            disturbed[0, 2] = 0
        return disturbed

    device = FakeDevice(cost, disturb)
    found = time_together(MODELS, device, rounds=12)
    assert sum(latency.dropped_readings for latency in found.latencies) == 1
    for latency, ms in zip(found.latencies, (0.008, 0.016, 0.024), strict=True):
        assert latency.passes_ms == pytest.approx([ms] * PASSES)
    assert found.noise == ()


def test_all_passes_run_on_the_same_cores() -> None:
    device = PinnedDevice(2, 3)
    assert time_together(MODELS, device, rounds=12, decided=lambda *_: False).cores == (2,)
    assert {plan.cores for plan in device.plans[1:]} == {(2,)}
    assert time_together(MODELS, FakeDevice(cost), rounds=12).cores == ()
    device = PinnedDevice(2)
    with pytest.raises(DeviceError, match=r"began on cores 1, which.*on cores 2.*measure again"):
        time_together(
            MODELS, device, rounds=12, progress=lambda *_: device.available.__setitem__(0, len(device.plans))
        )
