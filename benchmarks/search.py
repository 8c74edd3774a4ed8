"""Evaluations that strategies need, on problems whose true values somebody else measured.

    python benchmarks/search.py macro --data FOLDER --traces FILE --evaluations 300
    python benchmarks/search.py ofa ofa-params ofa-budget ofa-window --data FOLDER --traces FILE
    python benchmarks/search.py macro ofa --data FOLDER --traces FILE --strategies ablation --evaluations 200

macro: NAS-Bench-Macro on CIFAR-10, complete (nasbench_macro_cifar10.csv.gz). ofa: a surrogate of ImageNet
accuracies of once-for-all MobileNetV3 networks (ofa_mbv3_w10_imagenet_acc_evo.csv.gz), searched in its whole
space for top-1 and MACs; ofa-params: for parameters too; ofa-budget and ofa-window: for top-1 alone under
hard bounds on MACs. What a search came to is added to the file of traces, and what is there is not computed
again: call it as often as it takes, with a time limit if need be. Prints a table of all that the file holds.
Use a new file for new code.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from moocore import is_nondominated

import hwnas
from hwnas.predictors import get_predictor
from hwnas.searching.feasible import Candidates, neighbours, new_rows, row_keys
from hwnas.searching.objectives import Evaluation, Problem
from hwnas.searching.pareto import hypervolume
from hwnas.searching.strategies import Strategy
from hwnas.searching.strategies.base import History
from hwnas.searching.strategies.evolution import best_first, evolve, losses
from hwnas.searching.strategies.linas import LINAS
from hwnas.spaces import Architectures

MACRO_VALUES = ("skip", "k3e3", "k5e6")
MACRO_STAGES = ((0, 2), (2, 5), (5, 8))
MACRO_BEST = 1076.281475  # exact hypervolume
BUDGET_MMACS, WINDOW_MMACS = 250.0, 240.0
MARKS = (50, 62, 75, 100, 200, 300, 500)
SHARES = (99.0, 99.9)  # of the best hypervolume, %


@dataclass(frozen=True)
class Task:
    """A problem, and from where hypervolume counts; with one objective its best feasible value counts."""

    problem: Problem
    reference: tuple[float, ...] = ()

    def trace(self, result: hwnas.SearchResult) -> np.ndarray:
        """(evaluations,) the hypervolume, or the best value, after each evaluation."""
        if self.reference:
            return np.asarray(result.hypervolume_trace(self.reference))
        return np.maximum.accumulate([e.metrics["accuracy"] for e in result.evaluations])


# ---- NAS-Bench-Macro -----------------------------------------------------------------------------


def macro_canonical(genotypes: Any) -> Any:
    """Identities move to the end of a stage; its first layer changes the shape and stays where it is."""
    moved = genotypes.copy()
    for begin, end in MACRO_STAGES:
        part = moved[:, begin + 1 : end]
        order = np.argsort(part == 0, axis=1, kind="stable")
        moved[:, begin + 1 : end] = np.take_along_axis(part, order, axis=1)
    return moved


def macro_space() -> hwnas.SearchSpace:
    choices = [
        hwnas.Choice(f"stage{stage}.layer{layer}", MACRO_VALUES, group=f"stage{stage}")
        for stage, (begin, end) in enumerate(MACRO_STAGES, 1)
        for layer in range(1, end - begin + 1)
    ]
    return hwnas.SearchSpace("nasbench-macro", choices, canonical=macro_canonical)


def macro(data: Path) -> Task:
    """Accuracy (mean of three trainings, %) and MFLOPs of all 3969 networks."""
    space = macro_space()
    table = pd.read_csv(data / "nasbench_macro_cifar10.csv.gz", dtype={"arch": str})
    genotypes = space.canonical(np.array([[int(c) for c in arch] for arch in table["arch"]]))
    rows = dict(zip(row_keys(genotypes), table[["mean_acc", "flops"]].to_numpy(), strict=True))

    def column(index: int, unit: float) -> Any:
        return lambda archs: np.array([rows[key][index] / unit for key in row_keys(space.genotypes(archs))])

    accuracy = hwnas.Objective("accuracy", "max", column(0, 1.0), expensive=True)
    return Task(Problem(space, (accuracy, hwnas.Objective("mflops", "min", column(1, 1e6)))), (80.0, 110.0))


# ---- Once-for-all MobileNetV3 --------------------------------------------------------------------


@cache
def ofa_rows(data: Path) -> tuple[Architectures, np.ndarray]:
    """The distinct networks of the file and their top-1, %."""
    space = hwnas.get_space("mobilenetv3")
    table = pd.read_csv(data / "ofa_mbv3_w10_imagenet_acc_evo.csv.gz")
    archs = []
    for row in table.to_dict("records"):
        values = {f"stage{s + 1}.depth": row[f"d{s}"] for s in range(5)}
        for i in range(20):
            if row[f"ks{i}"]:
                block = f"stage{i // 4 + 1}.layer{i % 4 + 1}"
                values |= {f"{block}.kernel": row[f"ks{i}"], f"{block}.expand": row[f"e{i}"]}
        archs.append(space.architecture(values))
    genotypes, first = np.unique(space.genotypes(archs), axis=0, return_index=True)
    return space.architectures(genotypes), table["top1"].to_numpy()[first]


class Surrogate:
    """Support vectors on features and MACs, another family than what the searches predict with."""

    def __init__(self, archs: Architectures, top1: np.ndarray) -> None:
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
        from sklearn.svm import SVR

        self.space = archs.origin
        features = self._features(archs)
        self._machine = make_pipeline(
            StandardScaler(), SVR(C=10, epsilon=0.02, gamma=0.1 / features.shape[1])
        )
        self._machine.fit(features, top1)

    def __call__(self, archs: Any) -> np.ndarray:
        return np.asarray(self._machine.predict(self._features(archs)))

    def held_out(self, archs: Architectures, top1: np.ndarray) -> np.ndarray:
        """(n,) what it says of each fifth of the networks when fitted to the others."""
        from sklearn.model_selection import KFold, cross_val_predict

        folds = KFold(5, shuffle=True, random_state=0)
        return np.asarray(cross_val_predict(self._machine, self._features(archs), top1, cv=folds))

    def _features(self, archs: Any) -> np.ndarray:
        return np.column_stack([self.space.features(archs), self.space.macs(archs)])


@cache
def surrogate(data: Path) -> Surrogate:
    return Surrogate(*ofa_rows(data))


def ofa(data: Path, params: bool = False, lower: float | None = None, upper: float | None = None) -> Task:
    space = ofa_rows(data)[0].origin

    def mmacs(archs: Any) -> Any:
        return space.macs(archs) / 1e6

    accuracy = hwnas.Objective("accuracy", "max", surrogate(data), expensive=True)
    if upper is not None:
        bounds = hwnas.Constraint("mmacs", lower=lower, upper=upper, evaluate=mmacs)
        return Task(Problem(space, (accuracy,), (bounds,)))
    objectives = (accuracy, hwnas.Objective("mmacs", "min", mmacs))
    if not params:
        return Task(Problem(space, objectives), (70.0, 600.0))
    size = hwnas.Objective("mparams", "min", lambda archs: space.params(archs) / 1e6)
    return Task(Problem(space, (*objectives, size)), (70.0, 600.0, 8.0))


TASKS: dict[str, Callable[[Path], Task]] = {
    "macro": macro,
    "ofa": ofa,
    "ofa-params": lambda data: ofa(data, params=True),
    "ofa-budget": lambda data: ofa(data, upper=BUDGET_MMACS),
    "ofa-window": lambda data: ofa(data, lower=WINDOW_MMACS, upper=BUDGET_MMACS),
}


def best_known(name: str, data: Path) -> float:
    """What a long NSGA-II on the true values comes to, begun from the file's networks; of macro the truth.

    200,000 evaluations, then, in three turns, all single changes of 300 networks on the front.
    """
    if name == "macro":
        return MACRO_BEST
    task = TASKS[name](data)
    problem, space = task.problem, task.problem.space
    start = np.concatenate([ofa_rows(data)[0].genotypes, space.sample(200, 0).genotypes])

    def score(genotypes: Any) -> Any:
        archs = Architectures(space, genotypes)
        metrics = problem.exact_metrics(archs) | {"accuracy": surrogate(data)(archs)}
        return losses(problem.objectives, metrics), problem.violation(metrics)

    rng = np.random.default_rng(0)
    genotypes, found, violation = evolve(space, score, start, 500, 400, rng)
    genotypes, found = genotypes[violation == 0], found[violation == 0]
    for _ in range(3):
        best = np.flatnonzero(is_nondominated(found))
        centres = genotypes[rng.permutation(best)[:300]]
        near = new_rows(
            np.concatenate([neighbours(space, row[None]) for row in centres]), row_keys(genotypes)
        )
        scored, violation = score(near)
        genotypes = np.concatenate([genotypes[best], near[violation == 0]])
        found = np.concatenate([found[best], scored[violation == 0]])
    if not task.reference:
        return float(-found.min())
    signs = [-1.0 if o.direction == "max" else 1.0 for o in problem.objectives]
    return hypervolume(found * signs, task.reference, [o.direction for o in problem.objectives])


# ---- LINAS without what hwnas adds ---------------------------------------------------------------


class PublishedLINAS:
    """LINAS as its authors' DyNAS-T runs it: 50 at random, then the last generations of inner searches.

    https://arxiv.org/abs/2205.10358, https://github.com/IntelLabs/DyNAS-T (dynast/search/tactic/linas.py):
    choices one-hot, inactive ones included; every objective predicted, cheap ones too, by ridge or support
    vectors, whichever cross-validates better; an inner NSGA-II of 400 generations of 50 with their crossover
    and mutation, begun at random. Other than theirs, in its favour: networks that are known already are not
    evaluated again, and bounds on cheap metrics are exact. Against it: children that are in the population
    already are dropped, not bred again, and the predictors' grids are thinned. NSGA-II also for one and three
    objectives.
    """

    POPULATION, GENERATIONS = 50, 400

    def begin(self, problem: Problem, seed: int) -> None:
        self.problem, self.seed = problem, seed
        self._history, self._candidates = History(problem), Candidates(problem)
        self._raw = problem.space.genotypes([])  # all that was asked for, inactive choices as drawn

    def tell(self, evaluations: Sequence[Evaluation]) -> None:
        self._history.add(evaluations)

    def ask(self, n: int, pending: Sequence[hwnas.Architecture] = ()) -> Architectures:
        space, n = self.problem.space, min(n, self.POPULATION)
        rng = np.random.default_rng([self.seed, len(self._history)])
        chosen = self._new(self._evolved(rng))[:n] if len(self._history) else space.genotypes([])
        if len(chosen) == 0:
            drawn = self._candidates.draw(n, rng, self._history.seen())
            anything = rng.integers(0, space.cardinalities, drawn.shape)
            chosen = np.where(space.active(drawn), drawn, anything)
        self._raw = np.concatenate([self._raw, chosen])
        return Architectures(space, space.canonical(chosen))

    def _new(self, raw: np.ndarray) -> np.ndarray:
        """The rows that are valid, feasible and new networks, each once."""
        space = self.problem.space
        canonical = space.canonical(raw)
        first = dict(zip(reversed(row_keys(canonical)), reversed(range(len(raw))), strict=True))
        rows = sorted(i for key, i in first.items() if key not in self._history.seen())
        good = space.valid(canonical[rows]) & (self._candidates.violation(canonical[rows]) == 0)
        return raw[rows][good]

    def _evolved(self, rng: np.random.Generator) -> np.ndarray:
        """(population, g) the last generation of the inner search."""
        problem, metrics = self.problem, self._history.metrics
        machines = {o.name: RidgeOrSVR(self._one_hot(self._raw), metrics[o.name]) for o in problem.objectives}

        def score(raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            rows = self._one_hot(raw)
            found = {name: machine.predict(rows) for name, machine in machines.items()}
            return losses(problem.objectives, found), self._candidates.violation(problem.space.canonical(raw))

        alive = rng.integers(0, problem.space.cardinalities, (self.POPULATION, len(problem.space.choices)))
        values, violation = score(alive)
        for _ in range(self.GENERATIONS):
            order = best_first(values, violation, self.POPULATION)
            alive, values, violation = alive[order], values[order], violation[order]
            children = new_rows(self._children(alive, rng), row_keys(alive))
            if len(children):
                scored = score(children)
                alive = np.concatenate([alive, children])
                values = np.concatenate([values, scored[0]])
                violation = np.concatenate([violation, scored[1]])
        return alive[best_first(values, violation, self.POPULATION)]

    def _children(self, alive: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """By tournament, and pymoo's simulated binary crossover and polynomial mutation, rounded."""
        from pymoo.operators.crossover.sbx import cross_sbx
        from pymoo.operators.mutation.pm import mut_pm

        n, g = self.POPULATION, alive.shape[1]
        low, high = np.zeros(g), self.problem.space.cardinalities - 1.0
        pairs = alive[rng.integers(0, len(alive), (2, n // 2, 2)).min(axis=2)].astype(float)
        ones = np.ones((n // 2, 1))
        crossed = cross_sbx(pairs, low, high, 15 * ones, 0.5, 0.5 * ones, random_state=rng)
        crossed = np.where(rng.random((n // 2, 1)) < 0.9, crossed, pairs).reshape(-1, g)
        crossed = crossed.round()
        mutated = mut_pm(crossed, low, high, np.full(n, 20.0), np.full(n, 1 / g), False, random_state=rng)
        children = np.where(rng.random((n, 1)) < 0.02, mutated, crossed)
        return np.asarray(children.round(), dtype=np.int64)

    def _one_hot(self, raw: np.ndarray) -> np.ndarray:
        columns = [raw[:, [i]] == np.arange(c) for i, c in enumerate(self.problem.space.cardinalities)]
        return np.concatenate(columns, axis=1).astype(float)


class RidgeOrSVR:
    """DyNAS-T's predictor (dynast/predictors/dynamic_predictor.py), its grids thinned."""

    def __init__(self, features: np.ndarray, targets: np.ndarray) -> None:
        from sklearn.linear_model import Ridge
        from sklearn.model_selection import GridSearchCV
        from sklearn.svm import SVR

        self._columns = np.flatnonzero(features.var(axis=0))
        self._unit = 10 ** (np.floor(np.log10(np.abs(targets).max())) - 1)
        searches = [
            GridSearchCV(machine, grid, scoring="neg_mean_absolute_percentage_error")
            for machine, grid in (
                (Ridge(), {"alpha": [0.1, 1.0, 10.0]}),
                (SVR(gamma="auto", epsilon=0.0), {"C": [1.0, 10.0, 100.0]}),
            )
        ]
        for search in searches:
            search.fit(features[:, self._columns], targets / self._unit)
        self._machine = max(searches, key=lambda s: s.best_score_).best_estimator_

    def predict(self, features: np.ndarray) -> np.ndarray:
        return np.asarray(self._machine.predict(features[:, self._columns]) * self._unit)


class StrongerLINAS:
    """The same loop on hwnas's canonical networks, with its operators, and the best 50 of all that it met.

    The predictor is ridge regression on one-hot choices, inactive ones left out.
    """

    def begin(self, problem: Problem, seed: int) -> None:
        self.problem, self.seed = problem, seed
        self._history, self._candidates = History(problem), Candidates(problem)

    def tell(self, evaluations: Sequence[Evaluation]) -> None:
        self._history.add(evaluations)

    def ask(self, n: int, pending: Sequence[hwnas.Architecture] = ()) -> Architectures:
        space, n = self.problem.space, min(n, 50)
        rng = np.random.default_rng([self.seed, len(self._history)])
        seen = self._history.seen(pending)
        chosen = space.genotypes([])
        if len(self._history):
            metrics = self._history.metrics
            predictors = {o.name: get_predictor("ridge") for o in self.problem.objectives}
            for name, predictor in predictors.items():
                predictor.fit(self._one_hot(self._history.genotypes), metrics[name])

            def score(genotypes: Any) -> Any:
                rows = self._one_hot(genotypes)
                found = {name: predictor.predict(rows)[0] for name, predictor in predictors.items()}
                return losses(self.problem.objectives, found), self._candidates.violation(genotypes)

            start = space.sample(50, rng).genotypes
            found, values, violation = evolve(space, score, start, 50, 100, rng)
            found = found[best_first(values, violation, len(found))]
            chosen = new_rows(found[self._candidates.violation(found) == 0], seen)[:n]
        seen.update(row_keys(chosen))
        drawn = self._candidates.draw(n - len(chosen), rng, seen)
        return Architectures(space, np.concatenate([chosen, drawn]))

    def _one_hot(self, genotypes: Any) -> np.ndarray:
        return self.problem.space.features(genotypes)[:, : int(self.problem.space.cardinalities.sum())]


# ---- LINAS of hwnas with one ingredient taken away -----------------------------------------------


class RandomStart(LINAS):
    def _start(self, n: int, rng: np.random.Generator, seen: set[bytes]) -> np.ndarray:
        return self.problem.space.genotypes([])


class NoCheapFeatures(LINAS):
    """The space's features and shares alone."""

    def _features(self, genotypes: Any, metrics: Any) -> np.ndarray:
        features = self.problem.space.features(genotypes)
        return np.column_stack([features, features[:, : len(self._shares)] @ self._shares])


class NoSums(LINAS):
    """One-hot choices and cheap metrics; nothing is summed over alike choices."""

    def _features(self, genotypes: Any, metrics: Any) -> np.ndarray:
        features = super()._features(genotypes, metrics)
        sums = self.problem.space.features(genotypes).shape[1] + self._shares.shape[1]
        return np.column_stack([features[:, : len(self._shares)], features[:, sums:]])


class PlainSelection(LINAS):
    """The best of the predicted fronts by rank and crowding, as NSGA-II selects."""

    def _batch(self, losses: np.ndarray, front: np.ndarray, n: int) -> list[int]:
        return []


class NoOptimism(LINAS):
    optimism = 0.0


ABLATIONS: dict[str, Strategy] = {
    "random start": RandomStart(),
    "no cheap features": NoCheapFeatures(),
    "no sums": NoSums(),
    "ridge for gp": LINAS(predictor="ridge"),
    "svr for gp": LINAS(predictor="svr"),
    "plain selection": PlainSelection(),
    "no optimism": NoOptimism(),
    "start of 30": LINAS(start=30),
    "batches of 50": LINAS(batch=50),
}
OWN = {"linas-published": PublishedLINAS(), "linas-stronger": StrongerLINAS(), **ABLATIONS}

# ---- traces --------------------------------------------------------------------------------------

Key = tuple[str, str, int]  # problem, strategy, seed


class Traces:
    """A file of one JSON object a line, only ever added to: what searches came to, and what is best known."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.best: dict[str, float] = {}
        self.traces: dict[Key, np.ndarray] = {}
        for line in path.read_text().splitlines() if path.exists() else []:
            self._take(json.loads(line))

    def add(self, record: dict[str, Any]) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")
        self._take(record)

    def _take(self, record: dict[str, Any]) -> None:
        if "best" in record:
            self.best[record["problem"]] = record["best"]
        else:
            key = (record["problem"], record["strategy"], record["seed"])
            self.traces[key] = np.array(record["trace"])

    def of(self, problem: str) -> dict[str, np.ndarray]:
        """By strategy (seeds, evaluations), as long as the shortest."""
        found: dict[str, list[np.ndarray]] = {}
        for (name, strategy, _), trace in sorted(self.traces.items()):
            if name == problem:
                found.setdefault(strategy, []).append(trace)
        return {s: np.array([t[: min(map(len, ts))] for t in ts]) for s, ts in found.items()}


@cache
def task(name: str, data: Path) -> Task:
    return TASKS[name](data)


def search(key: Key, evaluations: int, data: Path) -> dict[str, Any]:
    name, strategy, seed = key
    here = task(name, data)
    result = hwnas.search(
        here.problem.space,
        here.problem.objectives,
        here.problem.constraints,
        strategy=OWN.get(strategy, strategy),
        evaluations=evaluations,
        seed=seed,
    )
    trace = np.round(here.trace(result), 4).tolist()
    return {"problem": name, "strategy": strategy, "seed": seed, "trace": trace}


def compute(
    traces: Traces, wanted: list[Key], evaluations: int, data: Path, processes: int, seconds: float
) -> int:
    """Adds what is missing until the time is up; returns how many are still missing."""
    missing = [key for key in wanted if len(traces.traces.get(key, ())) < evaluations]
    begin = time.monotonic()
    with ProcessPoolExecutor(processes) as pool:
        running: set[Any] = set()
        for key in [*missing, None]:
            while running and (key is None or len(running) == processes):
                done = next(as_completed(running))
                running.remove(done)
                traces.add(done.result())
            if key is not None and time.monotonic() - begin < seconds:
                running.add(pool.submit(search, key, evaluations, data))
    return sum(len(traces.traces.get(key, ())) < evaluations for key in wanted)


# ---- tables --------------------------------------------------------------------------------------


def evaluations_to(trace: np.ndarray, value: float) -> np.ndarray:
    """(seeds,) evaluations until the value; infinite where they did not do."""
    reached = trace >= value
    return np.where(reached.any(axis=1), reached.argmax(axis=1) + 1.0, np.inf)


def spread(values: np.ndarray, digits: int = 1) -> str:
    return f"{np.median(values):.{digits}f} ({values.min():.{digits}f}–{values.max():.{digits}f})"


def print_table(name: str, traces: Traces) -> None:
    """Median (smallest–largest) over seeds, in Markdown."""
    best, found = traces.best[name], traces.of(name)
    share = name in ("macro", "ofa", "ofa-params")
    unit = "% of the best known hypervolume" if share else "top-1, % below the best known"
    marks = [k for k in MARKS if k <= max(t.shape[1] for t in found.values())]
    heads = [*(str(k) for k in marks), *(f"to {s:g} %" for s in SHARES if share)]
    print(f"\n{name}: {unit} ({best:.6g}), median (smallest–largest) of seeds\n")
    print(f"| strategy | seeds | {' | '.join(heads)} |\n|{'---|' * (len(heads) + 2)}")
    for strategy, trace in found.items():
        value = 100 * trace / best if share else best - trace
        cells = [spread(value[:, k - 1], 1 if share else 2) if k <= value.shape[1] else "" for k in marks]
        cells += [spread(evaluations_to(value, s), 0) for s in SHARES if share]
        print(f"| {strategy} | {len(trace)} | {' | '.join(cells)} |")
    for rival in ("linas-published", "linas-stronger"):
        if rival in found and "linas" in found:
            level = np.median(found[rival][:, -1])
            needed = evaluations_to(found["linas"], level)
            print(f"\nwhat {rival} has after {found[rival].shape[1]}: linas needs {spread(needed, 0)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("problems", nargs="+", choices=list(TASKS))
    parser.add_argument("--data", type=Path, required=True, help="folder of the two files")
    parser.add_argument("--traces", type=Path, required=True, help="file that keeps what was computed")
    parser.add_argument(
        "--strategies", nargs="+", default=["linas", "linas-published", "linas-stronger", "nsga2", "random"],
        help="names, or: ablation",
    )  # fmt: skip
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--evaluations", type=int, default=500)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no search after so many")
    options = parser.parse_args()
    strategies = ["linas", *ABLATIONS] if options.strategies == ["ablation"] else options.strategies
    traces = Traces(options.traces)
    for name in options.problems:
        if name not in traces.best:
            traces.add({"problem": name, "best": best_known(name, options.data)})
    order = itertools.product(range(options.seeds), options.problems, strategies)
    wanted = [(name, strategy, seed) for seed, name, strategy in order]
    left = compute(traces, wanted, options.evaluations, options.data, options.processes, options.seconds)
    if any(name.startswith("ofa") for name in options.problems):
        print_surrogate(options.data)
    for name in options.problems:
        print_table(name, traces)
    if left:
        print(f"\n{left} searches are still to be done")


def print_surrogate(data: Path) -> None:
    from scipy.stats import kendalltau

    archs, top1 = ofa_rows(data)
    held_out = surrogate(data).held_out(archs, top1)
    print(
        f"surrogate of {len(top1)} networks, 5-fold: mean error {np.abs(held_out - top1).mean():.3f} % "
        f"top-1, Kendall tau {kendalltau(held_out, top1)[0]:.3f}"
    )


if __name__ == "__main__":
    main()
