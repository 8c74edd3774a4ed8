"""Measured latencies and what they say of budgets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from hwnas.export import verify
from hwnas.export.verify import MeasuredLatency, measure_latency, most_accurate
from hwnas.latency.measure import Timing


def entry(name: str, accuracy: float, predicted: float, measured: float) -> dict[str, object]:
    return {
        "id": name,
        "validation_accuracy": accuracy,
        "predicted": {"latency_ms": predicted},
        "measured": {"latency_ms": measured},
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
        (2.0, "measured", "c"),
        (9.0, "measured", "d"),
    ],
)
def test_the_most_accurate_within_a_budget_ties_to_the_faster(
    budget: float, latency: str, expected: str | None
) -> None:
    assert most_accurate(ENTRIES, budget, latency) == expected


def test_two_campaigns_make_one_latency(monkeypatch: pytest.MonkeyPatch) -> None:
    campaigns = iter([(1.0, 2.0), (1.02, 2.4)])

    def timed(models: Sequence[bytes], *_: object, **__: object) -> list[Timing]:
        assert models == [b"x", b"y"]
        return [
            Timing(ms, (0.9 * ms, 1.1 * ms), 0.0, 8, ms, ms, 0.25, (ms, ms), np.array([ms]))
            for ms in next(campaigns)
        ]

    monkeypatch.setattr(verify, "time_models", timed)
    found = measure_latency({"x": b"x", "y": b"y"}, None, rounds=8)  # type: ignore[arg-type]
    assert found["x"].ms == pytest.approx(1.01)
    assert found["x"].ci_ms == pytest.approx((0.9, 1.122))
    assert found["x"].preempted == 0.25
    assert found["x"].stable
    assert found["y"].spread == pytest.approx(0.4 / 2.2)
    assert not found["y"].stable


def test_stable_is_within_five_percent() -> None:
    assert MeasuredLatency(1.0, (1.0, 1.0), 0.05, 0.0).stable
    assert not MeasuredLatency(1.0, (1.0, 1.0), 0.051, 0.0).stable
