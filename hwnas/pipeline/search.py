"""Search: the front of accuracy against latency, and what else is asked for."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hwnas.errors import ConfigError, InfeasibleError
from hwnas.latency.predictor import MeasuredLatency
from hwnas.pipeline.profile import check_latency, own_device
from hwnas.progress import Progress

if TYPE_CHECKING:
    from hwnas.pipeline.job import Run

log = logging.getLogger("hwnas")

NO_MATTER = {
    "executor",
    "workers",
    "ray_address",
    "evaluation_time_limit_s",
    "tensorboard",
}  # of the search's settings, to its result


def more_evaluations(run: Run, more: int) -> int:
    """The number of evaluations of a finished search, and so many more; ConfigError if it is not finished."""
    done = run.store.stage("search")
    if done is None:
        made = all(run.store.stage(name) is not None for name in ("profile", "train"))
        raise ConfigError(
            f"{run.directory}: +{more} evaluations go on from a finished search, and this one is not; "
            f"finish it: {run.invocation.finish('search' if made else 'run')}"
        )
    return int(done["inputs"]["search"]["evaluations"]) + more


def inputs(run: Run) -> dict[str, Any]:
    profiled = run.outputs("profile")
    return {
        "supernet": run.outputs("train")["checksum"],
        "table": profiled["table"],
        "further_tables": profiled.get("further_tables", {}),
        "budgets_ms": list(run.config.latency.budgets_ms),
        "search": run.config.search.model_dump(exclude=NO_MATTER),
        "seed": run.config.seed,
    }


def check(run: Run, pending: Sequence[str], again: bool) -> None:
    """Check the latency budgets and, if it is known, what the search evaluates with.

    Args:
        run: The run.
        pending: Stages that are made earlier in the same command.
        again: Whether an unfinished search is removed first.
    """
    if "train" not in pending:  # otherwise the check of the training has done so
        check_latency(run, pending)
    if pending:
        return
    run.judge  # noqa: B018 (reads the supernet)
    if not again and run.store.stage("search") is None and run.store.rounds("search"):
        run.check_no_fewer(len(run.searched_so_far.evaluations))
    if isinstance(run.latency, MeasuredLatency):
        own_device(run)


def make(run: Run, progress: Progress) -> tuple[dict[str, Any], list[str]]:
    result = run.search("search", run.config.search.strategy, progress)
    if run.config.search.random_baseline:
        run.search("random-baseline", "random", progress)
    front = [evaluation.architecture.id for evaluation in result.front]
    if not front:
        raise InfeasibleError("the search found no model within the budgets; see evaluations in run.db")
    errors = [evaluation.error for evaluation in result.evaluations if evaluation.status == "failed"]
    if "accuracies" in run.outputs("train"):
        known, new = run.accuracies
        log.info("search: %d accuracies were known from the other run, %d were evaluated anew", known, new)
    failed = {"failed": len(errors), "error": errors[-1] if errors else None}
    return {"front": front, "evaluations": len(result.evaluations), **failed}, []


def forget(run: Run) -> None:
    for name in ("search", "random-baseline"):
        run.store.forget_search(name)
