"""What a run's front offers to somebody who has to choose a model: facts of each, by bounds and in order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hwnas.config import COSTS
from hwnas.errors import ConfigError, InfeasibleError, StoreError, known_names
from hwnas.pipeline import Run, costs_of, read_entry
from hwnas.searching.objectives import Evaluation
from hwnas.searching.pareto import ParetoFront
from hwnas.text import command_line

SORTS = {"accuracy": -1, "latency_ms": 1, **dict.fromkeys(COSTS, 1)}  # best first


def choose(run: Run, bounds: Mapping[str, float], sort: str = "accuracy") -> dict[str, Any]:
    """The front of a run under bounds such as {"max_latency_ms": 2.0}, as plain data, best in `sort` first.

    Of a verified run latencies are measured, models that missed every budget are left out and named in
    `missed`; otherwise they are those that the search went by: `latency` says which. The model at the knee of
    the whole front (`ParetoFront.knee`) is marked. Of a search that is not finished it is the front so far:
    `unfinished` says how many evaluations there are, and of how many.

    InfeasibleError, with the nearest value, if nothing is within the bounds; ConfigError for an unknown
    `sort`; StoreError if nothing is evaluated.
    """
    if sort not in SORTS:
        raise ConfigError(f"cannot sort by {sort!r}; {known_names(sort, SORTS)}")
    front, facts = _front(run)
    searched = run.store.stage("search") is not None
    if not front and not searched:
        raise StoreError(f"{run.directory}: the search has found nothing yet that keeps all bounds")
    if not front:
        fastest = min(model["measured"]["latency_ms"] for model in run.models)
        budget_ms = min(
            max(model["measured"]["latency_ms"], model["predicted"]["latency_ms"] or 0)
            for model in run.models
        )
        budget = ["--latency-budget-ms", f"{1.1 * budget_ms:.2g}"]
        search = command_line("hwnas", "search", run.directory, *budget, "--restart", "search")
        raise InfeasibleError(
            f"{run.directory}: every model was measured too slow for every budget, the fastest takes "
            f"{fastest:.4g} ms; search with a budget that can be kept, such as: {search}"
        )
    within, knee = front.within(**bounds), front.knee
    rows = [
        {**row, "knee": evaluation == knee}
        for evaluation, row in zip(front, facts, strict=True)
        if evaluation in within
    ]
    rows.sort(key=lambda row: SORTS[sort] * float(row[sort]))
    verified, total = run.store.stage("verify") is not None, run.config.search.evaluations
    return {
        "run": str(run.directory),
        "latency": "measured" if verified else LATENCIES[run.config.latency.source],
        "unfinished": None if searched else [len(run.searched_so_far.evaluations), total],
        "missed": [model["id"] for model in run.models if model["status"] == "missed"] if verified else [],
        "models": rows,
    }


# What the search went by, by latency.source.
LATENCIES = {
    "table": "predicted by the latency table",
    "predictor": "predicted from whole networks",
    "measured": "measured once, in the search",
}


def _front(run: Run) -> tuple[ParetoFront, list[dict[str, Any]]]:
    """The front, and what is known of each of its models, in its order."""
    if run.store.stage("verify") is not None:
        front, measured = run.front, run.measured
        models = [next(entry for entry, found in measured if found == evaluation) for evaluation in front]
        return front, [_facts(run, e, model) for e, model in zip(front, models, strict=True)]
    searched = run.searched_so_far.front
    archs = [evaluation.architecture for evaluation in searched]
    evaluations = tuple(
        Evaluation(
            e.architecture,
            {**e.metrics, **costs_of(run, e.architecture, run.space.precision(e.architecture))},
        )
        for e in searched
    )
    exported = run.store.stage("export") is not None
    front = ParetoFront(evaluations, searched.objectives)
    models = [read_entry(run, arch.id) if exported else {} for arch in archs]
    return front, [_facts(run, e, model) for e, model in zip(front, models, strict=True)]


def _facts(run: Run, evaluation: Evaluation, entry: Mapping[str, Any]) -> dict[str, Any]:
    """One row; what is not known yet is None. `entry` is that of pareto.json, if the model is exported."""
    metrics, name = evaluation.metrics, str(entry.get("id", evaluation.architecture.id))
    further = {metric: value for metric, value in metrics.items() if "@" in metric}
    return {
        "id": name,
        "precision": entry.get("precision", run.space.precision(evaluation.architecture)),
        "accuracy": metrics["accuracy"],
        "test_accuracy": entry.get("test_accuracy"),
        "latency_ms": metrics["latency_ms"],
        "latency_ci_ms": entry["measured"]["latency_ci_ms"] if entry else None,
        **further,
        **{name: int(metrics[name]) for name in COSTS},
        "int8": entry.get("int8"),
        "status": entry.get("status", "searched"),
        "model": str(run.directory / "models" / name / "model.onnx") if entry else None,
    }
