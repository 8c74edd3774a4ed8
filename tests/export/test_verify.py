"""What measurements say of budgets, and of earlier ones."""

from __future__ import annotations

from typing import Any

import pytest

from hwnas.errors import DeviceError
from hwnas.export.verify import (
    added,
    drifted,
    last_on,
    measure_models,
    most_accurate,
    same_device,
    stable,
    verdict,
)
from tests.latency.fakes import FakeDevice
from tests.latency.test_together import MODELS, Shifting, cost


def entry(name: str, accuracy: float, predicted: float, measured: float) -> dict[str, Any]:
    return {
        "id": name,
        "validation_accuracy": accuracy,
        "predicted": {"latency_ms": predicted},
        "measured": {"latency_ms": measured, "latency_ci_ms": [0.99 * measured, 1.01 * measured]},
    }


ENTRIES = [
    entry("a", 80, 1.0, 1.1),
    entry("b", 90, 2.0, 1.9),
    entry("c", 90, 1.5, 1.6),
    entry("d", 95, 3.0, 3.0),
]


@pytest.mark.parametrize(
    ("budget", "latency", "expected"),
    [
        (0.5, "predicted", None),
        (1.0, "predicted", "a"),
        (1.0, "measured", None),
        (1.1, "measured", None),
        (2.0, "measured", "c"),
        (3.0, "measured", "c"),
        (3.1, "measured", "d"),
    ],
)
def test_the_most_accurate_within_a_budget_ties_to_the_faster(
    budget: float, latency: str, expected: str | None
) -> None:
    assert most_accurate(ENTRIES, budget, latency) == expected


@pytest.mark.parametrize(
    ("ci_ms", "expected"),
    [
        ((0.9, 1.0), "met"),
        ((0.9, 1.001), "undecidable"),
        ((1.0, 1.1), "undecidable"),
        ((1.001, 1.1), "missed"),
    ],
)
def test_a_budget_in_the_interval_is_not_decided(ci_ms: tuple[float, float], expected: str) -> None:
    assert verdict(ci_ms, 1.0) == expected


class Refusing(FakeDevice):
    """A device that cannot run the second model."""

    def measure(self, models: Any, plan: Any, progress: Any = None) -> Any:
        raise DeviceError("it fails", 1)


def test_a_model_that_cannot_be_measured_is_named() -> None:
    with pytest.raises(DeviceError, match=r"^slow: it fails$"):
        measure_models({"fast": b"", "slow": b""}, Refusing(), 12)


def test_models_near_a_budget_are_timed_for_longer() -> None:
    device = Shifting(0.98, 1.02)
    models = dict(zip("abc", MODELS, strict=True))
    found = measure_models(models, device, 12, budgets_ms=[0.0161])
    assert [found[name]["passes"] for name in "abc"] == [6, 24, 6]
    assert found["a"]["latency_ms"] == pytest.approx(0.008, rel=1e-3)
    assert found["a"]["device"] == device.identity.device
    assert found["a"]["runtime"]["version"] == "1"
    assert found["a"]["noise"] == []
    assert stable(found["a"])
    assert same_device(device.identity, found["a"]["device"], {"name": "fake", "version": "0"})
    assert not same_device(device.identity, {"name": "other"}, found["a"]["runtime"])
    assert not same_device(device.identity, found["a"]["device"], {"name": "torch"})


def verification(ms: float, half: float = 0.01, **changes: Any) -> dict[str, Any]:
    return {
        "date": "2026-01-01",
        "device": {"name": "board", "cpu": "c", "cores": 4},
        "runtime": {"name": "onnxruntime", "version": "1", "threads": 1},
        "latency_ms": ms,
        "latency_ci_ms": [ms * (1 - half), ms * (1 + half)],
        "noise": [],
        "drift": None,
        **changes,
    }


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        (verification(1.0), verification(1.1), 0.1),
        (verification(1.0), verification(0.9), -0.1),
        (verification(1.0), verification(1.04), None),  # within what repeats
        (verification(1.0, 0.08), verification(1.1, 0.08), None),  # within both intervals together
        (verification(1.0, 0.05), verification(1.1, 0.05), 0.1),
        (verification(1.0), verification(1.5, noise=["drift"]), None),
        (verification(1.0, noise=["drift"]), verification(1.5), None),
    ],
)
def test_drift_is_what_neither_intervals_nor_noise_explain(
    before: dict[str, Any], now: dict[str, Any], expected: float | None
) -> None:
    assert drifted(before, now) == (None if expected is None else pytest.approx(expected))


def test_a_verification_is_compared_with_the_last_on_the_same_device() -> None:
    other = verification(9.0, device={"name": "other", "cpu": "c", "cores": 1})
    threads = verification(5.0, runtime={"name": "onnxruntime", "version": "1", "threads": 2})
    history = [verification(1.0), verification(2.0), other, threads]
    newer = verification(2.2, runtime={"name": "onnxruntime", "version": "2", "threads": 1})
    assert last_on(history, newer["device"], newer["runtime"]) == history[1]
    found = added(history, newer)
    assert found[:-1] == history
    assert found[-1] == {**newer, "drift": pytest.approx(0.1)}
    assert added([], newer) == [newer]
    assert added([other], newer)[-1]["drift"] is None


def test_an_exact_device_repeats() -> None:
    models = dict(zip("abc", MODELS, strict=True))
    found = measure_models(models, FakeDevice(cost), 12)
    again = measure_models(models, FakeDevice(cost), 12, seed=1)
    assert all(drifted(found[name], again[name]) is None for name in "abc")
