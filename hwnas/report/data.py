"""What a report is made from: plain data, and the few numbers that are derived from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats


@dataclass(frozen=True)
class ReportData:
    """One run, as plain data. Accuracies and errors are in percent, latencies in milliseconds.

    A part that a run does not have is empty: no budgets, no training (the supernet is another run's), no
    random baseline. NaN or None stands for a number that is not known.
    """

    name: str
    config: Mapping[str, Any]  # the resolved experiment
    objectives: Sequence[str]  # of the search, by name
    environment: Mapping[str, Any]  # versions, CPU, threads, date, …; may be nested
    # One row a truly evaluated architecture, in order. Columns: id, accuracy (validation), latency_ms (from
    # the table), macs, params, status ("ok" | "failed"), feasible (bool), predicted_accuracy (what a
    # predictor says that has not seen it; NaN where there are too few to ask one).
    evaluations: pd.DataFrame
    models: Sequence[Mapping[str, Any]]  # the models of pareto.json
    budgets_ms: Mapping[float, str | None]  # the id of the model chosen for each budget; None: none fits
    hypervolume: Mapping[str, Sequence[float]]  # after each evaluation, by strategy; "random": the baseline
    reference: str  # the reference point of the hypervolume, in words
    # Rows with step and loss, and now and then largest_accuracy and smallest_accuracy.
    training: Sequence[Mapping[str, float]]
    table: Mapping[str, Any]  # latency_table.json
    seconds: Mapping[str, float]  # by stage, in order


@dataclass(frozen=True)
class Agreement:
    """How well n predictions agree with what was measured."""

    n: int
    median_error: float
    mean_error: float
    kendall_tau: float  # NaN if it is not defined


def agreement(predicted: ArrayLike, measured: ArrayLike, relative: bool) -> Agreement | None:
    """Errors and rank correlation over the pairs of two (n,) arrays that are finite; None without any.

    Errors are |predicted − measured|, if `relative` in percent of measured (then their mean is the MAPE).
    """
    p, m = np.asarray(predicted, float), np.asarray(measured, float)
    known = np.isfinite(p) & np.isfinite(m)
    p, m = p[known], m[known]
    if not len(p):
        return None
    errors = np.abs(p - m) * (100 / m if relative else 1)
    tau = float(stats.kendalltau(p, m).statistic) if len(p) > 1 else float("nan")
    return Agreement(len(p), float(np.median(errors)), float(errors.mean()), tau)


def models_frame(models: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The models of pareto.json, one row each, fastest first; what is not known is NaN.

    Columns: id, status, validation, test, predicted_ms, measured_ms, ci_low, ci_high, latency_ms (measured,
    or else predicted), macs, params, budget_ms.
    """
    rows = []
    for model in models:
        measured = model["measured"] or {}
        low, high = measured.get("latency_ci_ms") or (None, None)
        rows.append(
            {
                "id": model["id"],
                "status": model["status"],
                "validation": model["validation_accuracy"],
                "test": model["test_accuracy"],
                "predicted_ms": model["predicted"]["latency_ms"],
                "measured_ms": measured.get("latency_ms"),
                "ci_low": low,
                "ci_high": high,
                "macs": model["macs"],
                "params": model["params"],
                "budget_ms": model["budget_ms"],
            }
        )
    text = ["id", "status"]
    numbers = ["validation", "test", "predicted_ms", "measured_ms", "ci_low", "ci_high", "macs", "params"]
    frame = pd.DataFrame(rows, columns=[*text, *numbers, "budget_ms"])
    frame = frame.astype(dict.fromkeys([*numbers, "budget_ms"], float))
    frame["latency_ms"] = frame["measured_ms"].fillna(frame["predicted_ms"])
    return frame.sort_values("latency_ms", kind="stable", ignore_index=True)


def latency_agreement(data: ReportData) -> Agreement | None:
    """The models' latency: what the table predicted against what was measured, errors in percent."""
    frame = models_frame(data.models)
    return agreement(frame["predicted_ms"], frame["measured_ms"], relative=True)


def accuracy_agreement(data: ReportData) -> Agreement | None:
    """Accuracy by a predictor that has not seen an evaluation, against its outcome, errors in points."""
    return agreement(data.evaluations["predicted_accuracy"], data.evaluations["accuracy"], relative=False)


def evaluations_to_match_random(data: ReportData) -> int | None:
    """After how many evaluations the search had all of random search's hypervolume; None if it never had."""
    if "random" not in data.hypervolume:
        return None
    goal = data.hypervolume["random"][-1]
    traces = [trace for strategy, trace in data.hypervolume.items() if strategy != "random"]
    reached = [n for trace in traces for n, value in enumerate(trace, 1) if value >= goal]
    return min(reached, default=None)
