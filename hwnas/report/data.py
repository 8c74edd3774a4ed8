"""What a report is made from: plain data, and the few numbers that are derived from it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from hwnas.latency.table import LatencyTable
from hwnas.spaces import Architecture, NetworkSpace

ALIKE = 5  # models at least, before it is said what grows along a front
SHOWN = 5000  # evaluations that figures show at most: no page holds a million points
GROWS = 0.5  # Kendall's tau with latency from which a trait is said to grow, or to shrink

MODEL_KINDS = ("model", "fine-tuned", "in 8 bits")

Trait = tuple[str, str]  # the stage, "" for the whole network, and what of it is chosen


@dataclass(frozen=True)
class OperatorTime:
    """An operator of a network: where it is, what it does, and what it costs.

    `shape` is that of its output, (channels, height, width) or (features,); `attributes` as in
    `hwnas.spaces.Operator`; `ms` what the latency table says of it, before calibration; None without one.
    """

    slot: str
    kind: str
    shape: tuple[int, ...]
    attributes: Mapping[str, int | str]
    macs: int
    params: int
    ms: float | None


def operator_times(space: NetworkSpace, arch: Architecture, table: LatencyTable | None) -> list[OperatorTime]:
    """The operators of an architecture in the order in which they run, with their times by a table."""
    precision = "fp32" if table is None else table.runtime["precisions"][0]
    return [
        OperatorTime(
            slot, op.kind, op.out_shape, dict(op.attributes), op.macs, op.params,
            None if table is None else table.operators[op.key].ms,
        )
        for slot, op in space.lower(arch, precision).items()
    ]  # fmt: skip


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
    # What was chosen in each evaluated architecture that is shown (`thinned`) and each model, by id: values
    # by choice name.
    architectures: Mapping[str, Mapping[str, Any]]
    operators: Mapping[str, Sequence[OperatorTime]]  # of each model by id, in the order in which they run
    files: Mapping[str, Sequence[str]]  # names in the folder of each model, by id
    budgets_ms: Mapping[float, str | None]  # the id of the model chosen for each budget; None: none fits
    hypervolume: Mapping[str, Sequence[float]]  # after each evaluation, by strategy; "random": the baseline
    reference: str  # the reference point of the hypervolume, in words
    # Rows with step and loss, and now and then largest_accuracy and smallest_accuracy.
    training: Sequence[Mapping[str, float]]
    table: Mapping[str, Any]  # latency_table.json
    verdict: str  # on that table, in a sentence; empty if latencies are not from a table
    dataset: Mapping[str, Any]  # classes (names), and the number of images of each split by name
    seconds: Mapping[str, float]  # by stage, in order
    knee: str | None  # the id of the model where the front bends most; None where it does not


def thinned(evaluations: pd.DataFrame) -> pd.DataFrame:
    """At most SHOWN of the rows, spread evenly."""
    return evaluations.iloc[:: stride(len(evaluations))]


def stride(n: int) -> int:
    """From one to the next of n that are shown."""
    return max(1, -(-n // SHOWN))


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


def kind_of(model: Mapping[str, Any]) -> str:
    """What an entry of pareto.json is, one of `MODEL_KINDS`."""
    return (
        "in 8 bits" if model.get("precision") == "int8" else "fine-tuned" if "finetuned" in model else "model"
    )


def models_frame(models: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The models of pareto.json, one row each, fastest first; what is not known is NaN.

    Columns: id, kind (one of `MODEL_KINDS`), status, validation, test, predicted_ms, measured_ms, ci_low,
    ci_high, latency_ms (measured, or else predicted), macs, params, budget_ms.
    """
    rows = []
    for model in models:
        measured = model["measured"] or {}
        low, high = measured.get("latency_ci_ms") or (None, None)
        rows.append(
            {
                "id": model["id"],
                "kind": kind_of(model),
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
    text = ["id", "kind", "status"]
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


def chosen_model(data: ReportData) -> str | None:
    """The id of the model of the loosest budget met, or else of the most accurate; None without models."""
    chosen = [key for _, key in sorted(data.budgets_ms.items()) if key is not None]
    frame = models_frame(data.models)
    if chosen or frame.empty:
        return chosen[-1] if chosen else None
    return str(frame.sort_values("validation", kind="stable")["id"].iloc[-1])


def timed_model(data: ReportData) -> str | None:
    """The id of the chosen model, or of the one in single precision that it is made of: tables know those."""
    key = chosen_model(data)
    made_of = next((m["quantized"]["from"] for m in data.models if m["id"] == key and "quantized" in m), None)
    return key if made_of is None else str(made_of)


def repeats(data: ReportData) -> pd.DataFrame:
    """The verifications on the run's own device of models that have several, one row each.

    Columns: id, date, latency_ms, percent (of the model's first), drift (since the one before, as a share;
    NaN where none is certain), disturbed (bool).
    """
    runtime = data.table["runtime"]
    own = [data.table["device"], runtime["name"], runtime["threads"]]
    rows = []
    for model in data.models:
        found = [
            v
            for v in model.get("verifications", ())
            if [v["device"], v["runtime"]["name"], v["runtime"]["threads"]] == own
        ]
        rows += [
            {
                "id": model["id"],
                "date": pd.Timestamp(verification["date"]),
                "latency_ms": verification["latency_ms"],
                "percent": 100 * verification["latency_ms"] / found[0]["latency_ms"],
                "drift": verification["drift"],
                "disturbed": bool(verification["noise"]),
            }
            for verification in (found if len(found) > 1 else ())
        ]
    columns = ["id", "date", "latency_ms", "percent", "drift", "disturbed"]
    return pd.DataFrame(rows, columns=columns).astype({"drift": float})


# ---- what architectures are like ------------------------------------------------------------------


def split_name(choice: str) -> Trait:
    """The stage that a choice belongs to, and what of it is chosen.

    ``stage1.layer2.kernel`` gives stage1 and kernel, ``stage1.depth`` stage1 and depth, and a name without a
    dot, which is of no stage, "" and itself.
    """
    stage, _, trait = choice.rpartition(".")
    return re.sub(r"\.layer\d+$", "", stage), trait


def by_stage(values: Mapping[str, Any]) -> dict[Trait, list[Any]]:
    """What an architecture has of each (stage, trait), in the order of its layers."""
    found: dict[Trait, list[Any]] = {}
    for name, value in values.items():
        found.setdefault(split_name(name), []).append(value)
    return found


def traits_of_models(data: ReportData) -> dict[Trait, pd.Series[Any]]:
    """What the models are like: of each (stage, trait) a series over the models' ids, fastest first.

    Of several layers it is the mean of what is a number, otherwise text; what a model does not have is NaN.
    """
    ids = list(models_frame(data.models)["id"])
    rows = [by_stage(data.architectures[key]) for key in ids]
    traits = dict.fromkeys(trait for row in rows for trait in row)
    return {
        trait: pd.Series([_mean(row[trait]) if trait in row else np.nan for row in rows], index=ids)
        for trait in traits
    }


def _mean(values: Sequence[Any]) -> Any:
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return float(np.mean(values))
    return ", ".join(str(value) for value in values)


@dataclass(frozen=True)
class InCommon:
    """What the models of a front have in common."""

    same: Mapping[Trait, Any]  # what all of them have, and its value
    grows: Mapping[Trait, float]  # with latency: Kendall's tau, strongest first
    shrinks: Mapping[Trait, float]


def in_common(data: ReportData) -> InCommon:
    """What all models have, and what grows or shrinks with their latency (of `ALIKE` models or more)."""
    latency = models_frame(data.models)["latency_ms"].to_numpy(float)
    same: dict[Trait, Any] = {}
    tau: dict[Trait, float] = {}
    for trait, values in traits_of_models(data).items():
        if values.notna().all() and values.nunique() == 1:
            same[trait] = values.iloc[0]
        elif pd.api.types.is_numeric_dtype(values) and len(values) >= ALIKE:
            tau[trait] = float(stats.kendalltau(latency, values, nan_policy="omit").statistic)
    ranked = sorted((item for item in tau.items() if abs(item[1]) >= GROWS), key=lambda item: -abs(item[1]))
    return InCommon(
        same,
        {trait: value for trait, value in ranked if value > 0},
        {trait: value for trait, value in ranked if value < 0},
    )
