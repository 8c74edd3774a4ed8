"""Exported models measured on a device, what that says of budgets, and whether it is what it was before.

A verification is plain data, one of `verifications` of a model's entry, the newest last: `date`, `device`
(name, cpu, cores), `runtime` (name, version, threads, …), `latency_ms`, `latency_ci_ms` (95 %), `cores` (the
numbers of those that it ran on; null if unknown), `passes`, `noise` (what disturbed it, in words),
`dropped_readings` (of the clock, as impossible) and `drift` (since the one before on that device, as a share;
null where none is certain).
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from hwnas.latency.measure import Device, Identity, naming_models
from hwnas.latency.together import STABLE, Latency, time_together
from hwnas.progress import Progress, silent

Verdict = Literal["met", "missed", "undecidable"]


def verdict(ci_ms: Sequence[float], budget_ms: float) -> Verdict:
    """What an interval (low, high) says of a budget: undecidable if the budget lies in it."""
    low, high = ci_ms
    return "met" if high <= budget_ms else "missed" if low > budget_ms else "undecidable"


def measure_models(
    models: Mapping[str, bytes],
    device: Device,
    rounds: int,
    budgets_ms: Sequence[float] = (),
    seed: int = 0,
    progress: Progress = silent,
) -> dict[str, dict[str, Any]]:
    """A verification of each serialised ONNX model, all timed together, by the models' ids.

    Those whose interval holds one of the budgets are timed for longer.
    """

    def decided(_: int, latency: Latency) -> bool:
        return all(verdict(latency.ci_ms, budget_ms) != "undecidable" for budget_ms in budgets_ms)

    with naming_models(list(models)):
        found = time_together(list(models.values()), device, rounds, seed, decided, progress)
    date, identity = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"), device.identity
    return {
        name: {
            "date": date,
            "device": dict(identity.device),
            "runtime": dict(identity.runtime),
            "latency_ms": latency.ms,
            "latency_ci_ms": list(latency.ci_ms),
            "cores": list(found.cores) or None,
            "passes": len(latency.passes_ms),
            "noise": list(found.noise),
            "dropped_readings": latency.dropped_readings,
            "drift": None,
        }
        for name, latency in zip(models, found.latencies, strict=True)
    }


def added(history: Sequence[Mapping[str, Any]], verification: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """A model's verifications with a new one, which is compared with the last on the same device."""
    before = last_on(history, verification["device"], verification["runtime"])
    drift = None if before is None else drifted(before, verification)
    return [*history, {**verification, "drift": drift}]


def last_on(
    history: Sequence[Mapping[str, Any]], device: Mapping[str, Any], runtime: Mapping[str, Any]
) -> Mapping[str, Any] | None:
    """The newest verification on a device by a runtime of that name with as many threads."""

    def place(device: Mapping[str, Any], runtime: Mapping[str, Any]) -> list[Any]:
        return [device, runtime["name"], runtime["threads"]]

    there = [v for v in history if place(v["device"], v["runtime"]) == place(device, runtime)]
    return there[-1] if there else None


def drifted(before: Mapping[str, Any], now: Mapping[str, Any]) -> float | None:
    """By what share a latency has changed between two verifications; None where that is not certain.

    It is certain if neither was disturbed, and the change is more than both intervals together leave room
    for, and more than the 5 % to which a latency repeats.
    """
    if before["noise"] or now["noise"]:
        return None
    change = float(now["latency_ms"] / before["latency_ms"] - 1)
    room = math.hypot(*(_half_width(v) * v["latency_ms"] / before["latency_ms"] for v in (before, now)))
    return change if abs(change) > max(room, STABLE) else None


def stable(verification: Mapping[str, Any]) -> bool:
    """Whether nothing disturbed a verification and its latency is known to ±5 %."""
    return not verification["noise"] and _half_width(verification) <= STABLE


def same_device(identity: Identity, device: Mapping[str, Any], runtime: Mapping[str, Any]) -> bool:
    """Whether a device is the one that latencies are of, whatever the versions."""
    return identity.device == device and identity.runtime["name"] == runtime["name"]


def most_accurate(entries: Sequence[Mapping[str, Any]], budget_ms: float, latency: str) -> str | None:
    """The id of the most accurate entry of pareto.json within a budget; None if none is.

    `latency` is "predicted" or "measured"; what is measured must meet the budget with its whole interval.
    Ties go to the faster one.
    """

    def within(entry: Mapping[str, Any]) -> bool:
        if latency == "measured":
            return verdict(entry["measured"]["latency_ci_ms"], budget_ms) == "met"
        predicted = entry["predicted"]["latency_ms"]  # None in 8 bits
        return predicted is not None and bool(predicted <= budget_ms)

    kept = [entry for entry in entries if within(entry)]
    if not kept:
        return None
    best = max(kept, key=lambda e: (e["validation_accuracy"], -e[latency]["latency_ms"]))
    return str(best["id"])


def _half_width(verification: Mapping[str, Any]) -> float:
    """Half the interval, as a share of the latency."""
    low, high = verification["latency_ci_ms"]
    return float((high - low) / 2 / verification["latency_ms"])
