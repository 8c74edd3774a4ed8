"""Report: figures and one page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hwnas.latency.table import LatencyTable
from hwnas.pipeline import search
from hwnas.pipeline.entries import check_data, model_folder
from hwnas.progress import Progress
from hwnas.report.data import ReportData, operator_times, thinned
from hwnas.store import read_json

if TYPE_CHECKING:
    from hwnas.pipeline.job import Run


def inputs(run: Run) -> dict[str, Any]:
    return {"pareto": run.outputs("verify")["files"]["pareto.json"], "search": search.inputs(run)}


def check(run: Run, pending: Sequence[str], again: bool) -> None:
    """Check the data.

    Args:
        run: The run.
        pending: Stages that are made earlier in the same command.
        again: Whether a report is there.
    """
    check_data(run)


def make(run: Run, progress: Progress) -> tuple[dict[str, Any], list[str]]:
    from hwnas.report.html import write_report  # matplotlib takes a second to load

    evaluations = run.evaluations()
    good = evaluations[(evaluations["status"] == "ok") & evaluations["feasible"]]
    reference = [0.0 if o.direction == "max" else float(good[o.name].max()) for o in run.objectives]
    hypervolume = {run.config.search.strategy: run.searched.hypervolume_trace(reference).tolist()}
    if run.config.search.random_baseline:
        random = run.search("random-baseline", "random")
        hypervolume["random"] = random.hypervolume_trace(reference).tolist()
    shown = [run.searched.evaluations[i].architecture for i in thinned(evaluations).index]
    models = {entry["id"]: run.space.architecture(entry["architecture"]) for entry in run.models}
    table = run.latency if isinstance(run.latency, LatencyTable) else None
    knee = run.front.knee
    data = ReportData(
        name=run.config.name,
        config=run.config.model_dump(mode="json"),
        environment=read_json(run.directory / "environment.json"),
        objectives=run.config.search.objectives,
        evaluations=evaluations,
        models=run.models,
        architectures={
            **{arch.id: arch.values for arch in shown},
            **{name: arch.values for name, arch in models.items()},
        },
        operators={  # the table says nothing of operators in 8 bits
            entry["id"]: operator_times(
                run.space, models[entry["id"]], None if "quantized" in entry else table
            )
            for entry in run.models
        },
        files={name: sorted(path.name for path in model_folder(run, name).iterdir()) for name in models},
        budgets_ms={b["budget_ms"]: b["model"] for b in run.outputs("verify")["budgets"]},
        hypervolume=hypervolume,
        reference=", ".join(
            f"{o.name} {value:.4g}" for o, value in zip(run.objectives, reference, strict=True)
        ),
        training=run.outputs("train")["reports"],
        table=read_json(run.directory / run.latency_file),
        verdict="" if table is None else table.verdict(),
        dataset={
            "classes": run.data("test").classes,
            "images": {
                "train": len(run.data("train")),
                "validation": len(run.data("validation")),
                "test": len(run.data("test")),
            },
        },
        seconds=run.seconds,
        knee=next((entry["id"] for entry, evaluation in run.measured if evaluation == knee), None),
    )
    path = write_report(data, run.directory)
    progress(1, 1, str(path))
    figures = sorted(
        str(file.relative_to(run.directory)) for file in (run.directory / "figures").glob("*.png")
    )
    return {}, [str(path.relative_to(run.directory)), *figures]
