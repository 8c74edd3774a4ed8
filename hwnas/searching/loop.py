"""The search: ask → evaluate → store → tell, until the evaluations are spent."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from hwnas.errors import HwnasError, SearchError, SpaceError
from hwnas.progress import Progress, silent
from hwnas.searching.feasible import check_feasible
from hwnas.searching.objectives import (
    Constraint,
    Evaluation,
    Objective,
    Problem,
    Values,
    real_values,
    whole,
)
from hwnas.searching.pareto import ParetoFront, hypervolume
from hwnas.searching.strategies import get_strategy
from hwnas.spaces import Architecture, Architectures, SearchSpace
from hwnas.store import Measurement, Store

TOLERATED_FAILURES = 9  # more, and more than half of all, stop a search


@dataclass(frozen=True)
class SearchResult:
    """Every true evaluation of a search, in the order in which they were asked for, and what follows."""

    problem: Problem
    evaluations: tuple[Evaluation, ...]

    @cached_property
    def front(self) -> ParetoFront:
        """The evaluations that succeeded, satisfy the constraints, and are beaten by none."""
        return ParetoFront.of(self.evaluations, self.problem.objectives, self.problem.constraints)

    def hypervolume_trace(self, reference: Sequence[float]) -> Values:
        """The hypervolume of the front after each evaluation, (n,); `reference` in the objectives' units."""
        directions = [o.direction for o in self.problem.objectives]
        trace = np.zeros(len(self.evaluations))
        points = np.zeros((0, len(directions)))
        for i, evaluation in enumerate(self.evaluations):
            added = ParetoFront.of([evaluation], self.problem.objectives, self.problem.constraints).points
            points = np.concatenate([points, added])
            trace[i] = trace[i - 1] if i and not len(added) else hypervolume(points, reference, directions)
        return trace

    def to_frame(self) -> pd.DataFrame:
        """One row an evaluation: every metric, status, error, and the architecture's values."""
        names = dict.fromkeys([*(o.name for o in self.problem.objectives), *self.problem.exact])
        columns: dict[str, Any] = {
            name: [e.metrics.get(name, float("nan")) for e in self.evaluations] for name in names
        }
        columns["status"] = [e.status for e in self.evaluations]
        columns["error"] = [e.error for e in self.evaluations]
        columns["architecture"] = [e.architecture.values for e in self.evaluations]
        return pd.DataFrame(columns)


def search(
    space: SearchSpace,
    objectives: Sequence[Objective],
    constraints: Sequence[Constraint] = (),
    strategy: str = "linas",
    evaluations: int = 200,
    seed: int = 0,
    store: Store | None = None,
    name: str = "search",
    progress: Progress = silent,
    **options: Any,
) -> SearchResult:
    """The Pareto front of `objectives` under `constraints`, from so many true evaluations.

    Ends with exactly `evaluations` of them, or with every feasible architecture if there are fewer.
    `options` are those of the strategy's class. Everything follows from `seed`.

    With a store each round and each expensive value is kept as soon as it is there. A search of the same
    `name` goes on where it stopped; what is stored is never evaluated again. An expensive value that cannot
    be had (an exception, a NaN) is a failed evaluation: counted, and never on the front. An HwnasError of
    an evaluate function says that it lacks something: it ends the search, which goes on when it is there.

    Raises InfeasibleError at once when no architecture satisfies the bounds on cheap metrics, with the
    nearest reachable value; SearchError when objectives, constraints or options are wrong, when an evaluate
    function returns another shape, or when at least 10 and more than half of the evaluations failed (then
    the search goes back to before the first failure, and tries again when it is run again); StoreError when
    the store holds another search of this name, or another process goes on with this one.
    """
    problem = Problem(space, tuple(objectives), tuple(constraints))
    evaluations, seed = whole("evaluations", evaluations, 1), whole("seed", seed, 0)
    strategist = get_strategy(strategy, problem, seed, **options)
    check_feasible(problem, seed)
    store = Store() if store is None else store
    store.begin_search(name, _settings(problem, strategy, seed, options))
    evaluator = _Evaluator(problem, store, name)
    replay = [_architectures(space, batch, name) for batch in store.rounds(name)]
    done: list[Evaluation] = []
    failed_from: int | None = None  # the first round with a failure
    number = 0
    while len(done) < evaluations:
        stored = number < len(replay)
        batch = replay[number] if stored else strategist.ask(evaluations - len(done))
        if len(batch) == 0:
            break
        if not stored:
            evaluator.forget_failures(batch)
            store.add_round(name, number, space.id, {arch.id: arch.values for arch in batch})
        told = []
        exact = problem.exact_metrics(batch)
        for i, arch in enumerate(batch[: evaluations - len(done)]):
            known = {metric: float(values[i]) for metric, values in exact.items()}
            told.append(evaluator.evaluate(arch, known))
            if told[-1].status == "failed":
                failed_from = number if failed_from is None else failed_from
                if _most_failed(done + told):
                    store.forget_rounds(name, failed_from)
                    raise SearchError(_why_stopped(done + told))
            progress(len(done) + len(told), evaluations, _summary(problem, done + told))
        strategist.tell(told)
        done += told
        number += 1
    return SearchResult(problem, tuple(done))


class _Evaluator:
    """True values of architectures: from the store where they are known, else computed and stored."""

    def __init__(self, problem: Problem, store: Store, search: str) -> None:
        self.problem = problem
        self.store = store
        self.sources = {o.name: o.source or f"search {search}" for o in problem.expensive}
        self.known = {name: store.measurements(name, source) for name, source in self.sources.items()}

    def forget_failures(self, batch: Architectures) -> None:
        """What failed in another search, or before this one was stopped, is tried again in a new round."""
        for name, known in self.known.items():
            failed = [arch.id for arch in batch if arch.id in known and known[arch.id].value is None]
            self.store.forget_failures(name, self.sources[name], failed)
            for key in failed:
                del known[key]

    def evaluate(self, arch: Architecture, exact: dict[str, float]) -> Evaluation:
        """`exact` holds the cheap metrics."""
        values = dict(exact)
        for objective in self.problem.expensive:
            measurement = self.known[objective.name].get(arch.id)
            if measurement is None:
                measurement = self._measure(objective, arch)
                self.store.add_measurement(measurement)
                self.known[objective.name][arch.id] = measurement
            if measurement.value is None:
                return Evaluation(arch, values, "failed", f"{objective.name}: {measurement.error}")
            values[objective.name] = measurement.value
        ordered = {o.name: values.pop(o.name) for o in self.problem.objectives}
        return Evaluation(arch, {**ordered, **values})

    def _measure(self, objective: Objective, arch: Architecture) -> Measurement:
        begin = time.perf_counter()
        value, error = None, None
        try:
            raw = objective.evaluate(Architectures(self.problem.space, np.array([arch.genotype])))
        except HwnasError:
            raise
        except Exception as problem:
            error = f"{type(problem).__name__}: {problem}"
        else:
            value = float(real_values(objective.name, raw, 1)[0])
            if not np.isfinite(value):
                value, error = None, f"the value is {value}"
        seconds = time.perf_counter() - begin
        return Measurement(arch.id, objective.name, self.sources[objective.name], value, error, seconds)


def _settings(problem: Problem, strategy: str, seed: int, options: dict[str, Any]) -> dict[str, Any]:
    """What a search of one name must have in common with its continuation."""
    return {
        "space": problem.space.id,
        "objectives": [[o.name, o.direction, o.expensive, o.source] for o in problem.objectives],
        "constraints": [[c.name, c.lower, c.upper] for c in problem.constraints],
        "strategy": strategy,
        "options": {key: v.item() if isinstance(v, np.generic) else v for key, v in options.items()},
        "seed": seed,
    }


def _architectures(space: SearchSpace, batch: Sequence[dict[str, Any]], name: str) -> Architectures:
    try:
        return space.architectures(np.array([space.architecture(values).genotype for values in batch]))
    except SpaceError as error:
        raise SearchError(f"the stored search {name!r} does not fit this space: {error}") from None


def _most_failed(evaluations: Sequence[Evaluation]) -> bool:
    failed = sum(e.status == "failed" for e in evaluations)
    return failed > TOLERATED_FAILURES and 2 * failed > len(evaluations)


def _why_stopped(evaluations: Sequence[Evaluation]) -> str:
    errors = [e.error for e in evaluations if e.status == "failed"]
    return (
        f"{len(errors)} of {len(evaluations)} evaluations failed, the last with {errors[-1]!r}; "
        "mend what evaluates, then run the search again: it tries them again"
    )


def _summary(problem: Problem, evaluations: Sequence[Evaluation]) -> str:
    front = ParetoFront.of(evaluations, problem.objectives, problem.constraints)
    failed = sum(e.status == "failed" for e in evaluations)
    best = f"best {front.objectives[0].name} {front.points[0, 0]:.6g}, " if len(front) else ""
    return f"{best}{len(front)} on the front" + (f", {failed} failed" if failed else "")
