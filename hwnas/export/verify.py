"""Exported models measured on the device, and what that says of budgets.

A latency is stated only when it repeats: all models are timed in two interleaved campaigns with fresh
sessions, since a session's memory layout shifts a latency as a whole, which no number of runs in it shows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hwnas.latency.measure import Device, time_models
from hwnas.progress import Progress, silent

CAMPAIGNS = 2
STABLE = 0.05  # campaigns that differ by more than this share do not repeat


@dataclass(frozen=True)
class MeasuredLatency:
    """The latency of a model over two campaigns, in milliseconds.

    `ci_ms` is (low, high), the union of the campaigns' 95 % intervals; `spread` the difference between the
    campaigns as a share of the latency; `preempted` the share of runs that the system interrupted.
    """

    ms: float
    ci_ms: tuple[float, float]
    spread: float
    preempted: float

    @property
    def stable(self) -> bool:
        """Whether both campaigns agree within 5 %."""
        return self.spread <= STABLE


def measure_latency(
    models: Mapping[str, bytes], device: Device, rounds: int, seed: int = 0, progress: Progress = silent
) -> dict[str, MeasuredLatency]:
    """Time serialised ONNX models together, `rounds` shuffled rounds a campaign; by the models' ids."""
    campaigns = []
    for campaign in range(CAMPAIGNS):

        def shown(done: int, total: int, text: str = "", campaign: int = campaign) -> None:
            progress(campaign * total + done, CAMPAIGNS * total, f"campaign {campaign + 1}: {text}")

        drawn = seed * CAMPAIGNS + campaign
        campaigns.append(time_models(list(models.values()), device, rounds, drawn, progress=shown))
    measured = {}
    for name, timings in zip(models, zip(*campaigns, strict=True), strict=True):
        times = [timing.ms for timing in timings]
        ms = sum(times) / len(times)
        measured[name] = MeasuredLatency(
            ms=ms,
            ci_ms=(min(t.ci_ms[0] for t in timings), max(t.ci_ms[1] for t in timings)),
            spread=(max(times) - min(times)) / ms,
            preempted=sum(timing.preempted for timing in timings) / len(timings),
        )
    return measured


def most_accurate(entries: Sequence[Mapping[str, Any]], budget_ms: float, latency: str) -> str | None:
    """The id of the most accurate entry of pareto.json within a budget; None if none is.

    `latency` is "predicted" or "measured". Ties go to the faster one.
    """
    within = [entry for entry in entries if entry[latency]["latency_ms"] <= budget_ms]
    if not within:
        return None
    best = max(within, key=lambda e: (e["validation_accuracy"], -e[latency]["latency_ms"]))
    return str(best["id"])
