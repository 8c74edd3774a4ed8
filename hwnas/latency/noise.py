"""Whether a table can be trusted where other work ran beside its measurement.

CPU time of one thread hardly minds other work, so a busy machine alone is no reason to refuse a table; what
it does mind shows in these signals. benchmarks/README.md holds the errors of tables made under load.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hwnas.latency.measure import Samples, Timing, trimmed_mean

MAX_PREEMPTED = 0.2  # share of kept runs
MAX_TAKEN = 0.6  # share of the wall time of kept runs in which they did not run
MAX_REPEATABILITY_CV = 5.0  # percent between the halves of the passes, of held-out networks
MAX_DRIFT = 0.1  # between passes, by the networks in them


def noise(
    passes: Sequence[Samples], found: Sequence[Timing], first_network: int, repeatability_cv: float
) -> dict[str, Any]:
    """The signals, `noisy`, and the reasons in words, `noise`, as plain data of a table's protocol.

    Models from `first_network` on are whole networks, which serve as anchors: `drift` is by how much the
    slowest pass differs from the fastest in the median network.
    """
    networks = found[first_network:]
    preempted = max(float(np.mean([t.preempted for t in part])) for part in (found[:first_network], networks))
    wall, own = (sum(int(getattr(p, name).sum()) for p in passes) for name in ("wall_ns", "time_ns"))
    taken = max(0.0, 1 - own / wall)
    levels = [level for p in passes if (level := _level(p, found, first_network)) is not None]
    drift = max(levels) / min(levels) - 1
    reasons = []
    if preempted > MAX_PREEMPTED:
        reasons.append(
            f"{100 * preempted:.0f} % of runs were preempted (at most {100 * MAX_PREEMPTED:.0f} %)"
        )
    if taken > MAX_TAKEN:
        reasons.append(
            f"other work took {100 * taken:.0f} % of the time of the core (at most {100 * MAX_TAKEN:.0f} %)"
        )
    if repeatability_cv > MAX_REPEATABILITY_CV:
        reasons.append(
            f"one network differs from pass to pass by {repeatability_cv:.1f} % "
            f"(at most {MAX_REPEATABILITY_CV:.0f} %)"
        )
    if drift > MAX_DRIFT:
        reasons.append(f"networks drifted by {100 * drift:.0f} % (at most {100 * MAX_DRIFT:.0f} %)")
    return {
        "preempted": round(preempted, 4),
        "taken": round(taken, 4),
        "drift": round(drift, 4),
        "noisy": bool(reasons),
        "noise": reasons,
    }


def _level(samples: Samples, found: Sequence[Timing], first_network: int) -> float | None:
    """The latency of the median network in a pass, as a ratio to all passes; None if none was visited."""
    ratios = []
    for model in np.unique(samples.model[samples.model >= first_network]).tolist():
        times = samples.time_ns[samples.model == model].ravel() / 1e6
        ratios.append(float(trimmed_mean(times)) / found[model].ms)
    return float(np.median(ratios)) if ratios else None
