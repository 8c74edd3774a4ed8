"""Which of two versions of a model is faster, on machines that are quiet or busy."""

from __future__ import annotations

import numpy as np
import pytest

from hwnas.export.compare import compare
from hwnas.ops.onnx import onnx_model, random_weights
from tests.latency.fakes import CALL_NS, FakeDevice, PinnedDevice
from tests.networks.small_spaces import SPACES


def model(seed: int) -> bytes:
    space = SPACES["fused"]
    operators = space.operators(space.sample(1, seed)[0])
    return onnx_model(operators, [random_weights(op, 0) for op in operators]).SerializeToString()


def device(disturb=lambda times: times, kind: type[FakeDevice] = FakeDevice) -> FakeDevice:
    """A device on which the models of seeds 0, 1, 2 take 100, 80 and 98 microseconds."""
    known = {model(seed): ns - CALL_NS for seed, ns in enumerate((100_000, 80_000, 98_000))}
    return kind(lambda found: known[found.SerializeToString()], disturb)


def test_on_a_quiet_machine_all_is_exact() -> None:
    found = compare({"a": (model(0), model(1)), "b": (model(1), model(0))}, device(), rounds=8)
    assert list(found) == ["a", "b"]
    assert (found["a"].speedup, *found["a"].speedup_ci) == pytest.approx((1.25, 1.25, 1.25))
    assert (found["a"].old_ms, found["a"].new_ms) == (pytest.approx(0.1), pytest.approx(0.08))
    assert found["a"].faster
    assert found["b"].speedup == pytest.approx(0.8)
    assert not found["b"].faster


def test_the_same_is_not_faster() -> None:
    assert not compare({"a": (model(0), model(0))}, device(), rounds=8)["a"].faster


def test_a_machine_that_is_slow_for_a_while_hides_nothing() -> None:
    """Rounds take up to four times as long, and a tenth of the runs ten times: 2 % are seen even so."""
    generator = np.random.default_rng(0)

    def busy(times):
        rounds = np.repeat(1 + 3 * generator.random(len(times) // 2), 2)[:, None]
        interrupted = np.where(generator.random(times.shape) < 0.1, 10, 1)
        return (times * rounds * interrupted).astype(np.int64)

    found = compare({"a": (model(0), model(2))}, device(busy), rounds=48)["a"]
    assert found.old_ci_ms[0] < found.new_ci_ms[1]  # by the latencies alone nothing could be said
    assert found.faster
    assert found.speedup == pytest.approx(100 / 98, rel=0.005)


def test_passes_that_do_not_agree_say_nothing() -> None:
    """One session of six happens to be slow."""

    class Moody(FakeDevice):
        def measure(self, models, plan, progress=lambda *_: None):
            samples = super().measure(models, plan, progress)
            if len(self.plans) == 2:
                samples.time_ns[samples.model == 1] *= 2
            return samples

    found = compare({"a": (model(0), model(1))}, device(kind=Moody), rounds=8)
    assert found["a"].speedup_ci[0] < 1 < found["a"].speedup_ci[1]
    assert not found["a"].faster


def test_impossible_readings_are_dropped() -> None:
    """One reading of a pass, and all readings of a visit among 5760."""
    single = iter([1])
    found = compare({"a": (model(0), model(1))}, device(lambda times: with_zeros(times, next(single, 0))), 8)
    assert (found["a"].speedup, *found["a"].speedup_ci) == pytest.approx((1.25, 1.25, 1.25))
    visit = iter([0, 5])
    found = compare(
        {"a": (model(0), model(1))}, device(lambda times: with_zeros(times, next(visit, 0))), 3456
    )
    assert (found["a"].speedup, *found["a"].speedup_ci) == pytest.approx((1.25, 1.25, 1.25))


def with_zeros(times: np.ndarray, count: int) -> np.ndarray:
    disturbed = times.copy()
    disturbed.flat[:count] = 0
    return disturbed


def test_all_passes_run_on_the_same_cores() -> None:
    pinned = PinnedDevice(2, 3)
    compare({"a": (model(0), model(1))}, pinned, rounds=8)
    assert [plan.cores for plan in pinned.plans] == [(), *[(2,)] * 5]
