"""The search: ask → evaluate → store → tell, until the evaluations are spent.

`SearchSession` is the search without its evaluations: it says what to evaluate next and is told what came of
it. `search` is the loop around it, with an executor that evaluates.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, wraps
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
import pandas as pd
from scipy import stats

from hwnas.errors import SearchError, SpaceError
from hwnas.plugins import identity, plain
from hwnas.progress import Progress, as_progress, silent
from hwnas.searching.executors import Executor, Task, get_executor
from hwnas.searching.feasible import check_feasible
from hwnas.searching.objectives import (
    Constraint,
    Evaluation,
    Objective,
    Problem,
    Values,
    elsewhere,
    free_name,
    listed,
    real_values,
    whole,
)
from hwnas.searching.pareto import ParetoFront, candidates, hypervolume
from hwnas.searching.strategies import StrategyLike, get_strategy
from hwnas.spaces import Architecture, Architectures, SearchSpace
from hwnas.store import Measurement, Store

if TYPE_CHECKING:  # loaded by what draws
    from matplotlib.figure import Figure

TOLERATED_FAILURES = 9  # more, and more than half of all, stop a search


# ---- what came of it -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Round:
    """Architectures that were asked for together, and what the strategy predicted of the first ones."""

    architectures: Architectures
    predicted: Mapping[str, tuple[float, ...]]  # by metric

    def kendall_tau(self, evaluations: Sequence[Evaluation]) -> dict[str, float]:
        """Rank correlation of predictions with the round's evaluations, by metric, where it is defined."""
        found = {}
        for name, predicted in self.predicted.items():
            pairs = zip(predicted, evaluations, strict=False)
            known = [(value, e.metrics[name]) for value, e in pairs if e.status == "ok"]
            tau = float(stats.kendalltau(*np.transpose(known)).statistic) if len(known) > 1 else np.nan
            if np.isfinite(tau):
                found[name] = tau
        return found


@dataclass(frozen=True)
class SearchResult:
    """Every true evaluation of a search, in the order in which they were asked for, and what follows."""

    problem: Problem
    evaluations: tuple[Evaluation, ...]
    rounds: tuple[Round, ...] = ()  # that these evaluations are of, the last one perhaps cut short

    @cached_property
    def front(self) -> ParetoFront:
        """The evaluations that succeeded, satisfy the constraints, and are beaten by none."""
        return ParetoFront.of(self.evaluations, self.problem.objectives, self.problem.constraints)

    @cached_property
    def reference(self) -> Values:
        """The worst value of each objective in the first round, (objectives,); NaN if all of it failed.

        Of what satisfies the constraints, if something does. Hypervolumes of one search are up to here.
        """
        first = self.evaluations[: len(self.rounds[0].architectures) if self.rounds else None]
        return _worst(self.problem, first)

    def hypervolume_trace(self, reference: Sequence[float] | Values | None = None) -> Values:
        """The hypervolume of the front after each evaluation, (n,).

        `reference` is in the objectives' units, by default the worst values of the first round.
        """
        objectives, target = self.problem.objectives, self.reference if reference is None else reference
        directions = [o.direction for o in objectives]
        signs = np.array([-1.0 if direction == "max" else 1.0 for direction in directions])
        positions, points = candidates(self.evaluations, objectives, self.problem.constraints)
        front = np.zeros((0, len(objectives)))  # so far, all minimised
        changed, volumes = [0], [_volume(front, target, directions)]
        for position, loss in zip(positions.tolist(), points * signs, strict=True):
            if not (front <= loss).all(axis=1).any():
                front = np.concatenate([front[~(loss <= front).all(axis=1)], loss[None]])
                changed.append(position)
                volumes.append(_volume(front * signs, target, directions))
        latest = np.searchsorted(changed, np.arange(len(self.evaluations)), side="right") - 1
        return np.array(volumes)[latest]

    def to_frame(self) -> pd.DataFrame:
        """One row an evaluation: every metric, `status`, `error`, and `architecture`, its values.

        A metric of one of these names keeps it, and the column gets an underscore, as ``error_``.
        """
        names = dict.fromkeys([*(o.name for o in self.problem.objectives), *self.problem.exact])
        columns: dict[str, Any] = {
            name: [e.metrics.get(name, float("nan")) for e in self.evaluations] for name in names
        }
        own = {
            "status": [e.status for e in self.evaluations],
            "error": [e.error for e in self.evaluations],
            "architecture": [e.architecture.values for e in self.evaluations],
        }
        return pd.DataFrame(columns | {free_name(name, names): values for name, values in own.items()})

    def rounds_frame(self) -> pd.DataFrame:
        """One row a round: evaluations and failures so far, the hypervolume (up to `reference`), and
        `kendall_tau_<metric>`, the rank correlation of the strategy's predictions with the round.
        """
        trace, rows, end = self.hypervolume_trace(), [], 0
        failures = np.cumsum([e.status == "failed" for e in self.evaluations])
        for round_ in self.rounds:
            begin, end = end, end + len(round_.architectures)
            tau = round_.kendall_tau(self.evaluations[begin:end])
            rows.append(
                {"evaluations": end, "failed": failures[end - 1], "hypervolume": trace[end - 1]}
                | {f"kendall_tau_{o.name}": tau.get(o.name, np.nan) for o in self.problem.expensive}
            )
        return pd.DataFrame(rows)

    def plot(self, x: str | None = None, y: str | None = None) -> Figure:
        """Every evaluation and the front, by two objectives: the second against the first, or as named.

        The figure is of nobody's pyplot: `figure.savefig("front.png")`; a notebook shows it as it is.
        """
        from hwnas.searching.plotting import plot_front

        return plot_front(self.problem, self.evaluations, self.front, x, y)


@dataclass(frozen=True)
class Status:
    """Where a search stands: what there is to watch."""

    done: int  # evaluations
    total: int
    failed: int
    front: ParetoFront  # of what is done
    hypervolume: float  # of it, up to the worst values of the first round; NaN until that is done
    kendall_tau: Mapping[str, float]  # of the predictions of the last round that is done, by metric

    def __str__(self) -> str:
        front = self.front
        best = f"best {front.objectives[0].name} {front.points[0, 0]:.6g}, " if len(front) else ""
        return f"{best}{len(front)} on the front" + (f", {self.failed} failed" if self.failed else "")


# ---- the search ----------------------------------------------------------------------------------


def search(
    space: SearchSpace,
    objectives: Sequence[Objective],
    constraints: Sequence[Constraint] = (),
    strategy: StrategyLike = "linas",
    evaluations: int = 200,
    seed: int = 0,
    store: Store | None = None,
    name: str = "search",
    progress: Progress | bool = silent,
    *,
    executor: str | Executor = "serial",
    workers: int | None = None,
    evaluation_time_limit_s: float | None = None,
    lag: int = 0,
    watch: Callable[[Status], None] | None = None,
    **options: Any,
) -> SearchResult:
    """Search the Pareto front of `objectives` under `constraints` by true evaluations.

    The search ends with exactly `evaluations` of them, or with every feasible architecture if there are
    fewer. In a space of more than 4 million combinations a feasible architecture may be missed if it differs
    from every other one in three or more choices. Everything follows from `seed`, whatever the executor.

    With a store each round and each expensive value is kept at once. A search of the same `name` resumes
    where it stopped; a stored value is never evaluated again. An exception or a NaN in place of an expensive
    value is a failed evaluation: it counts, and is never on the front. An HwnasError of an evaluate function
    says that something is missing: it ends the search, which resumes when that is there.

    Args:
        space: The search space.
        objectives: What is optimised.
        constraints: Bounds on metrics.
        strategy: What asks for architectures: a name (`hwnas list strategies`); an object with the methods
            of `hwnas.searching.strategies.Strategy`, which is copied; or a class or function that makes one.
            A stored search is resumed only with a strategy of the same name, or of the same class with the
            same `parameters`.
        evaluations: Number of true evaluations.
        seed: Seed of all that is drawn.
        store: Where evaluations are kept; without one, in memory.
        name: Name of the search in the store.
        progress: A function of evaluations done, their total and a text; True prints lines to standard error.
        executor: Where expensive objectives are evaluated: "serial", here; "process", in processes of this
            machine; "ray", on a Ray cluster; or an `Executor`. A task whose worker is lost is tried again,
            twice.
        workers: Number of processes or Ray workers.
        evaluation_time_limit_s: Seconds after which an evaluation is stopped, and has failed; for "process".
        lag: Number of batches that may be unfinished when the next is asked for. With 0, workers wait for
            the slowest evaluation of a batch. With more the strategy knows less, and the result is that of
            the lag.
        watch: A function that is called with the `Status` after each evaluation.
        **options: Options of the strategy: arguments of its class, such as `predictor`, `start`, `batch` and
            `algorithm` of "linas"; for an object, further arguments of its `begin`. `predictor` is a name
            (`hwnas list predictors`), an object with the methods `fit` and `predict`, or a class or function
            that makes one.

    Returns:
        All evaluations and the front.

    Raises:
        InfeasibleError: At once, if no architecture satisfies the bounds on cheap metrics; the message has
            the nearest reachable value.
        SearchError: If an argument is wrong; if a strategy or predictor does not follow its protocol; if an
            evaluate function returns another shape. Also if more than half of the evaluations failed: after
            10 failures, or at the end. The search then goes back to before the first failure, and tries
            again when it is run again.
        StoreError: If the store holds another search of this name, or another process works on this one.
    """
    evaluations = whole("evaluations", evaluations, 1)
    progress = as_progress(progress, "search")
    if watch is not None and not callable(watch):
        raise SearchError(f"watch is a function of a Status, got {watch!r:.80}; to see lines: progress=True")
    objectives = listed("objectives", objectives, Objective)
    if any(objective.evaluate is elsewhere for objective in objectives):
        elsewhere(())
    if isinstance(executor, str):
        executor = get_executor(executor, workers, time_limit_s=evaluation_time_limit_s)
    elif not hasattr(executor, "submit"):
        raise SearchError(f"executor is a name or an Executor, got {executor!r}")
    elif workers is not None or evaluation_time_limit_s is not None:
        raise SearchError("workers and a time limit go with an executor's name; an Executor has its own")
    session = SearchSession(
        space, objectives, constraints, strategy, seed, store, name, lag=lag, limit=evaluations, **options
    )
    executor.start(space, {objective.name: objective.evaluate for objective in session.problem.expensive})
    tasks = shown = 0
    positions: dict[str, int] = {}  # in which order they were asked for
    exhausted = False

    def submit(arch: Architecture) -> None:
        nonlocal tasks
        missing = session.missing(arch)
        if missing is not None:
            executor.submit(Task(positions[arch.id], missing, arch))
            tasks += 1

    def report() -> None:
        nonlocal shown
        if session.done > shown:
            shown = session.done
            status = session.status(evaluations)
            progress(status.done, status.total, str(status))
            if watch is not None:
                watch(status)

    try:
        while True:
            while session.ready and not exhausted and (session.left or session.asked < evaluations):
                batch = session.ask(len(session.left) or evaluations - session.asked)
                exhausted = len(batch) == 0
                for arch in batch:
                    positions[arch.id] = len(positions)
                    submit(arch)
                report()
            if not tasks:
                break
            task, outcome = executor.next()
            tasks -= 1
            session.record(task.architecture, task.objective, outcome.value, outcome.error, outcome.seconds)
            submit(task.architecture)
            report()
    finally:
        executor.stop()
    session.check_failures()
    return session.result


Method = TypeVar("Method", bound=Callable[..., Any])


def _locked(method: Method) -> Method:
    """Let one thread at a time into the methods of a session."""

    @wraps(method)
    def alone(self: SearchSession, *args: Any, **kwargs: Any) -> Any:
        with self._lock:
            return method(self, *args, **kwargs)

    return cast(Method, alone)


class SearchSession:
    """A search step by step, for those who evaluate elsewhere: ask, evaluate, tell.

        session = hwnas.SearchSession(space, objectives, store=hwnas.Store("search.db"))
        while session.asked < 200 and len(batch := session.ask(10)):
            session.tell(batch, {"accuracy": [train(arch.values) for arch in batch]})
        session.result.front

    An expensive objective needs no evaluate function here: `Objective("accuracy", "max", expensive=True)`.
    The arguments are those of `search`. With a store a session goes on where an earlier one of the name
    stopped: what was asked for and not told is asked for again, first. Threads may share a session: the
    callback of an executor can call `tell`. The result does not depend on the order in which values are told.
    """

    def __init__(
        self,
        space: SearchSpace,
        objectives: Sequence[Objective],
        constraints: Sequence[Constraint] = (),
        strategy: StrategyLike = "linas",
        seed: int = 0,
        store: Store | None = None,
        name: str = "search",
        *,
        lag: int = 0,
        limit: int | None = None,
        **options: Any,
    ) -> None:
        """`limit`: no more evaluations of a stored search than this are taken up again."""
        if store is not None and not isinstance(store, Store):
            raise SearchError(f"store is a hwnas.Store, as hwnas.Store('search.db'), got {store!r}")
        if not isinstance(space, SearchSpace):
            raise SearchError(f"space is a hwnas.SearchSpace, got {space!r:.80}")
        self._lock = threading.RLock()
        self.problem = Problem(
            space, listed("objectives", objectives, Objective), listed("constraints", constraints, Constraint)
        )
        self.name = name
        seed, self._lag = whole("seed", seed, 0), whole("lag", lag, 0)
        self._strategy = get_strategy(strategy, self.problem, seed, **options)
        check_feasible(self.problem, seed)
        self._store = Store() if store is None else store
        self._title, own = (strategy, {}) if isinstance(strategy, str) else identity(self._strategy)
        self._store.begin_search(
            name, _settings(self.problem, self._title, seed, self._lag, {**own, **options})
        )
        self._sources = {o.name: o.source or f"search {name}" for o in self.problem.expensive}
        self._known = {
            metric: self._store.measurements(metric, source) for metric, source in self._sources.items()
        }
        self._rounds: list[Round] = []
        self._ends: list[int] = []  # how many architectures there are up to the end of each round
        self._told = 0  # rounds that the strategy knows
        self._evaluations: list[Evaluation] = []  # up to the first that is not finished
        self._queue: deque[str] = deque()  # ids of the others, in order
        self._exact: dict[str, tuple[Architecture, dict[str, float]]] = {}  # of those not finished, by id
        self._ids: set[str] = set()  # of all that were asked for
        self._early: dict[str, Evaluation] = {}  # finished before one that was asked for earlier
        self._failed = self._failed_in_order = 0
        self._front = ParetoFront((), self.problem.objectives)  # of all finished
        predictions = self._store.predictions(name)
        for number, values in enumerate(self._store.each_round(name)):
            batch = _architectures(space, values, f"{name!r} in {self._store.path or 'memory'}")
            if limit is not None:
                batch = batch[: limit - self.asked]
            if len(batch):
                predicted = {k: tuple(v[: len(batch)]) for k, v in predictions.get(number, {}).items()}
                self._take_up(Round(batch, predicted))
        self.left = self.pending  # asked for by an earlier session, and not told to it

    @property
    @_locked
    def asked(self) -> int:
        """How many architectures were asked for."""
        return self._ends[-1] if self._ends else 0

    @property
    @_locked
    def done(self) -> int:
        """How many of them are evaluated, or failed."""
        return self.asked - len(self._exact)

    @property
    @_locked
    def pending(self) -> list[Architecture]:
        """What was asked for and lacks a value, in the order asked."""
        return [arch for arch, _ in self._exact.values()]

    @property
    @_locked
    def ready(self) -> bool:
        """Whether there is something to ask for before more is told."""
        return bool(self.left) or self._finished_rounds >= len(self._rounds) - self._lag

    @property
    @_locked
    def result(self) -> SearchResult:
        """All evaluations up to the first that was asked for and is not finished."""
        rounds, done = [], len(self._evaluations)
        for round_, end in zip(self._rounds, self._ends, strict=True):
            archs = round_.architectures[: max(0, len(round_.architectures) - max(0, end - done))]
            if len(archs):
                rounds.append(Round(archs, {k: v[: len(archs)] for k, v in round_.predicted.items()}))
        return SearchResult(self.problem, tuple(self._evaluations), tuple(rounds))

    @_locked
    def status(self, total: int) -> Status:
        """Where the session stands on its way to so many evaluations."""
        reference, tau, rounds = np.array([np.nan]), {}, self._finished_rounds
        if rounds:
            reference = _worst(self.problem, self._evaluations[: self._ends[0]])
            begin = self._ends[rounds - 2] if rounds > 1 else 0
            tau = self._rounds[rounds - 1].kendall_tau(self._evaluations[begin : self._ends[rounds - 1]])
        volume = _volume(self._front.points, reference, [o.direction for o in self.problem.objectives])
        return Status(self.done, total, self._failed, self._front, volume, tau)

    @_locked
    def ask(self, n: int) -> Architectures:
        """The next architectures to evaluate, at most n; none when there are no more.

        They follow from the seed and from all batches but the last `lag` ones: SearchError if one of those
        is not told yet. What an earlier session asked for comes again first.
        """
        n, space = whole("n", n, 1), self.problem.space
        if self.left:
            again, self.left = self.left[:n], self.left[n:]
            return Architectures(space, space.genotypes(again))
        if not self.ready:
            raise SearchError(
                f"{len(self.pending)} architectures were asked for and lack a value: tell them first "
                f"(session.pending), or let more batches be out at a time: lag={self._lag + 1}"
            )
        while self._told < len(self._rounds) - self._lag:
            begin = self._ends[self._told - 1] if self._told else 0
            self._strategy.tell(self._evaluations[begin : self._ends[self._told]])
            self._told += 1
        pending = [arch for round_ in self._rounds[self._told :] for arch in round_.architectures]
        batch = self._checked(self._strategy.ask(n, pending), n)
        if len(batch):
            predictions: Mapping[str, Sequence[float]] = getattr(self._strategy, "predicted", {})
            predicted = {k: tuple(np.asarray(v, dtype=float).tolist()) for k, v in predictions.items()}
            for metric, known in self._known.items():  # what failed elsewhere is tried again
                failed = [a.id for a in batch if a.id in known and known[a.id].value is None]
                self._store.forget_failures(metric, self._sources[metric], failed)
                for key in failed:
                    del known[key]
            choices = {arch.id: arch.values for arch in batch}
            self._store.add_round(self.name, len(self._rounds), space.id, choices, predicted)
            self._take_up(Round(batch, predicted))
        return batch

    def _checked(self, batch: Sequence[Architecture], n: int) -> Architectures:
        """Return a batch that a strategy asked for; SearchError if it is not one of at most n new ones."""
        try:
            asked = self.problem.space.architectures(batch)
        except (SpaceError, TypeError, ValueError) as error:
            raise SearchError(
                f"strategy {self._title}: ask returned {batch!r:.80}; it must return architectures of the "
                f"space ({error})"
            ) from None
        ids = [arch.id for arch in asked]
        wrong = f"{len(ids)} architectures" if len(ids) > n else ""
        if len(set(ids)) < len(ids) or not self._ids.isdisjoint(ids):
            again = next(key for i, key in enumerate(ids) if key in self._ids or key in ids[:i])
            wrong = f"architecture {again} again"
        if wrong:
            raise SearchError(
                f"strategy {self._title}: ask({n}) returned {wrong}; it must return at most {n} "
                "architectures that were not asked for before"
            )
        return asked

    @_locked
    def tell(self, archs: Sequence[Architecture], metrics: Mapping[str, Sequence[float]]) -> None:
        """Values of n architectures that were asked for, by expensive objective, (n,) each, in any portions.

        A NaN is a failed evaluation. SearchError for what was not asked for, or is told already or twice, for
        another metric or shape, and, when all is stored, if at least 10 and more than half of the evaluations
        failed.
        """
        self._check_pending(archs)
        values = {}
        for metric, raw in metrics.items():
            if metric not in self._sources:
                raise SearchError(f"{metric!r} is not told; what is: {', '.join(self._sources) or 'nothing'}")
            values[metric] = real_values(metric, raw, len(archs))
        for metric, array in values.items():
            for arch, value in zip(archs, array.tolist(), strict=True):
                error = None if np.isfinite(value) else f"the value is {value}"
                self._keep(arch, metric, None if error else value, error, 0.0)
        self._finish(archs)

    @_locked
    def fail(self, archs: Sequence[Architecture], error: str) -> None:
        """Architectures that were asked for could not be evaluated, and why."""
        self._check_pending(archs)
        for arch in archs:
            missing = self.missing(arch)
            assert missing is not None
            self._keep(arch, missing, None, error, 0.0)
        self._finish(archs)

    @_locked
    def missing(self, arch: Architecture) -> str | None:
        """The first expensive objective that an architecture lacks; None if it has all, or failed."""
        if arch.id not in self._exact:
            return None
        return next(name for name, known in self._known.items() if arch.id not in known)

    @_locked
    def record(
        self, arch: Architecture, metric: str, value: float | None, error: str | None, seconds: float
    ) -> None:
        """Store one value of an architecture that was asked for, or why there is none."""
        self._keep(arch, metric, value, error, seconds)
        self._finish([arch])

    def _keep(
        self, arch: Architecture, metric: str, value: float | None, error: str | None, seconds: float
    ) -> None:
        measurement = Measurement(arch.id, metric, self._sources[metric], value, error, seconds)
        self._store.add_measurement(measurement)
        self._known[metric][arch.id] = measurement

    @_locked
    def check_failures(self) -> None:
        """SearchError if more than half of the evaluations failed; the search goes back to before them."""
        why = self._why_stopped()
        if why is not None:
            raise self._go_back(why)

    def _why_stopped(self) -> str | None:
        """What is said if more than half of the evaluations failed."""
        if 2 * self._failed_in_order <= len(self._evaluations):  # asked after every evaluation: no loop
            return None
        errors = [e.error for e in self._evaluations if e.status == "failed"]
        return (
            f"{len(errors)} of {len(self._evaluations)} evaluations failed, the last with {errors[-1]!r}; "
            "mend what evaluates, then run the search again: it tries them again"
        )

    def _go_back(self, why: str) -> SearchError:
        """Forget the rounds from the first failure on."""
        first = next(i for i, e in enumerate(self._evaluations) if e.status == "failed")
        self._store.forget_rounds(self.name, bisect_right(self._ends, first))
        return SearchError(why)

    def _check_pending(self, archs: Sequence[Architecture]) -> None:
        for arch in archs:
            if arch.id not in self._exact:
                raise SearchError(f"{arch} was not asked for, or is told already")
        if len({arch.id for arch in archs}) < len(archs):
            raise SearchError("an architecture is told twice at once")

    def _take_up(self, round_: Round) -> None:
        """Wait for a round's values; some may be known."""
        archs = list(round_.architectures)  # each is one object, and finds out its id once
        exact = self.problem.exact_metrics(round_.architectures)
        self._rounds.append(round_)
        self._ends.append(self.asked + len(archs))
        for i, arch in enumerate(archs):
            self._exact[arch.id] = arch, {metric: float(values[i]) for metric, values in exact.items()}
            self._queue.append(arch.id)
            self._ids.add(arch.id)
        self._finish(archs)

    def _finish(self, archs: Sequence[Architecture]) -> None:
        """Make evaluations of those that have all values now."""
        good, stopped = [], None
        for arch in archs:
            evaluation = self._evaluation(arch.id)
            if evaluation is None:
                continue
            del self._exact[arch.id]
            self._early[arch.id] = evaluation
            self._failed += evaluation.status == "failed"
            if evaluation.status == "ok":
                good.append(evaluation)
        if good:
            problem = self.problem
            self._front = ParetoFront.of([*self._front, *good], problem.objectives, problem.constraints)
        while self._queue and self._queue[0] in self._early:
            self._evaluations.append(self._early.pop(self._queue.popleft()))
            self._failed_in_order += self._evaluations[-1].status == "failed"
            if self._failed_in_order > TOLERATED_FAILURES and stopped is None:
                stopped = self._why_stopped()  # raised when all that was told is taken in
        if stopped is not None:
            raise self._go_back(stopped)

    def _evaluation(self, key: str) -> Evaluation | None:
        """The evaluation of an architecture that has all its values, or failed, and was not finished yet."""
        if key not in self._exact:
            return None
        arch, values = self._exact[key]
        found = dict(values)
        for metric, known in self._known.items():
            if key not in known:
                return None
            value = known[key].value
            if value is None:
                return Evaluation(arch, found, "failed", f"{metric}: {known[key].error}")
            found[metric] = value
        ordered = {o.name: found.pop(o.name) for o in self.problem.objectives}
        return Evaluation(arch, {**ordered, **found})

    @property
    def _finished_rounds(self) -> int:
        return bisect_right(self._ends, len(self._evaluations))


def _settings(
    problem: Problem, strategy: str, seed: int, lag: int, options: dict[str, Any]
) -> dict[str, Any]:
    """What a search of one name must have in common with its continuation."""
    return {
        "space": problem.space.id,
        "objectives": [[o.name, o.direction, o.expensive, o.source] for o in problem.objectives],
        "constraints": [[c.name, c.lower, c.upper] for c in problem.constraints],
        "strategy": strategy,
        "options": plain(options),
        "seed": seed,
        **({"lag": lag} if lag else {}),  # older searches had none
    }


def _architectures(space: SearchSpace, batch: Sequence[dict[str, Any]], name: str) -> Architectures:
    try:
        return space.architectures(np.array([space.architecture(values).genotype for values in batch]))
    except SpaceError as error:
        raise SearchError(f"the stored search {name} does not fit this space: {error}") from None


def _worst(problem: Problem, evaluations: Sequence[Evaluation]) -> Values:
    """The worst value of each objective, (objectives,), of those that satisfy the constraints, if any do."""
    good = [e for e in evaluations if e.status == "ok"]
    within = [e for e in good if all(c.violation(e.metrics[c.name]) == 0 for c in problem.constraints)]
    if not good:
        return np.full(len(problem.objectives), np.nan)
    values = {o.name: [e.metrics[o.name] for e in within or good] for o in problem.objectives}
    return np.array([(min if o.direction == "max" else max)(values[o.name]) for o in problem.objectives])


def _volume(points: Values, reference: Sequence[float] | Values, directions: Sequence[str]) -> float:
    return hypervolume(points, list(reference), directions) if np.isfinite(reference).all() else float("nan")
