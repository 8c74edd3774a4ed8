"""Whether latencies can be trusted where other work ran beside their measurement.

CPU time of one thread hardly minds other work, so a busy machine alone is no reason to refuse a table; what
it does mind shows in these signals. benchmarks/README.md holds the errors of tables made under load.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from hwnas.latency.measure import Samples, Timing, trimmed_mean

MAX_PREEMPTED = 0.5  # share of kept runs
MAX_TAKEN = 0.9  # share of the wall time of kept runs in which they did not run
MAX_REPEATABILITY_CV = 5.0  # percent between the halves of the passes, of held-out networks
MAX_HALF_WIDTH = 0.1  # of the 95 % interval of a predicted network, as a share of it
MAX_DRIFT = 0.1  # of the median model, from the fastest pass to all


def disturbance(
    passes: Sequence[Samples], found: Sequence[Timing], groups: Sequence[slice]
) -> tuple[dict[str, float], list[str]]:
    """The signals that passes over models give, and in words those that are beyond their limits.

    `preempted` is that of the worst group of models. `drift` is by how much all passes together are slower
    than the fastest one, in the median model: each serves as an anchor for itself.
    """
    preempted = max(float(np.mean([timing.preempted for timing in found[group]])) for group in groups)
    wall, own = (
        sum(float(getattr(p, name)[p.possible].sum()) for p in passes) for name in ("wall_ns", "time_ns")
    )
    taken = max(0.0, 1 - own / wall)
    levels = [_level(samples, found) for samples in passes if len(samples.model)]
    drift = 1 / min(levels) - 1
    reasons = []
    if preempted > MAX_PREEMPTED:
        reasons.append(
            f"{100 * preempted:.0f} % of runs were preempted (at most {100 * MAX_PREEMPTED:.0f} %)"
        )
    if taken > MAX_TAKEN:
        reasons.append(
            f"other work took {100 * taken:.0f} % of the time of the core (at most {100 * MAX_TAKEN:.0f} %)"
        )
    if drift > MAX_DRIFT:
        reasons.append(
            f"latencies are {100 * drift:.0f} % above those of the fastest pass "
            f"(at most {100 * MAX_DRIFT:.0f} %)"
        )
    return {"preempted": round(preempted, 4), "taken": round(taken, 4), "drift": round(drift, 4)}, reasons


def noise(
    passes: Sequence[Samples],
    found: Sequence[Timing],
    first_network: int,
    repeatability_cv: float,
    half_width: float,
    unresolved: Sequence[str],
) -> dict[str, Any]:
    """The signals, `noisy`, and the reasons in words, `noise`, as plain data of a table's protocol.

    Models from `first_network` on are whole networks. `unresolved` are operators that cannot be told from an
    empty call.
    """
    groups = (slice(0, first_network), slice(first_network, None))
    signals, reasons = disturbance(passes, found, groups)
    if repeatability_cv > MAX_REPEATABILITY_CV:
        reasons.append(
            f"one network differs from pass to pass by {repeatability_cv:.1f} % "
            f"(at most {MAX_REPEATABILITY_CV:.0f} %)"
        )
    if half_width > MAX_HALF_WIDTH:
        reasons.append(
            "predicted networks are uncertain "
            + (f"by ±{100 * half_width:.0f} %" if math.isfinite(half_width) else "without bound")
            + f" (at most ±{100 * MAX_HALF_WIDTH:.0f} %)"
        )
    if unresolved:
        reasons.append(
            f"{len(unresolved)} operators cannot be told from an empty call, such as {unresolved[0]}"
        )
    return {**signals, "noisy": bool(reasons), "noise": reasons}


def _level(samples: Samples, found: Sequence[Timing]) -> float:
    """The latency of the median model in a pass, as a ratio to that in all passes."""
    order = np.argsort(samples.model, kind="stable")
    models, starts = np.unique(samples.model[order], return_index=True)
    times = np.split(samples.time_ms[order], starts[1:])
    ratios = [
        float(trimmed_mean(rows.ravel())) / found[model].ms
        for model, rows in zip(models.tolist(), times, strict=True)
    ]
    return float(np.median(ratios))
