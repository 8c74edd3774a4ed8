"""Speed of the search's inner loop over the once-for-all MobileNetV3 space and its algorithms, on one core.

OMP_NUM_THREADS=1 python benchmarks/inner_loop.py [ridge] [gp]
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import moocore
import numpy as np
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.problem import Problem as PymooProblem
from pymoo.core.repair import Repair
from pymoo.operators.crossover.sbx import SBX
from pymoo.operators.mutation.pm import PM
from pymoo.optimize import minimize

import hwnas
from hwnas.errors import MissingExtraError
from hwnas.predictors import get_predictor
from hwnas.searching.objectives import Evaluation, Problem
from hwnas.searching.strategies import ALGORITHMS, get_strategy
from hwnas.searching.strategies.algorithms import Pymoo, get_algorithm
from hwnas.searching.strategies.linas import GENERATIONS, POPULATION

CANDIDATES, TOLD, SEEDS = 15_000, 300, 10

Score = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]

space = hwnas.get_space("mobilenetv3")


def accuracy(archs: object) -> np.ndarray:
    """Saturates with MACs and parameters; stages want to be balanced, so that not all is size."""
    depths = np.stack([archs.column(f"stage{i}.depth") for i in range(1, 6)], axis=1)  # type: ignore[attr-defined]
    return 80 - 4e8 / (space.macs(archs) + 0.1 * space.params(archs)) - 0.2 * depths.std(axis=1)


def seconds(work: Callable[[], object], repeats: int = 5) -> float:
    """Median wall-clock seconds."""
    found = []
    for _ in range(repeats):
        begin = time.perf_counter()
        work()
        found.append(time.perf_counter() - begin)
    return statistics.median(found)


class Canonical(Repair):
    """Whole numbers within bounds, canonical."""

    def _do(self, problem: PymooProblem, X: np.ndarray, **_: object) -> np.ndarray:
        whole = np.clip(np.rint(X), 0, space.cardinalities - 1).astype(np.int64)
        return space.canonical(whole)


def stock(_: object, score: Score, start: np.ndarray, population: int, generations: int, rng: object):
    """pymoo's NSGA2 as it comes: its operators on whole numbers, its loop, arrays to and from our scores."""
    rows, losses, violation = [], [], []

    class Stock(PymooProblem):
        def _evaluate(self, x: np.ndarray, out: dict[str, np.ndarray], *_: object, **__: object) -> None:
            found, violated = score(x.astype(np.int64))
            rows.append(x)
            losses.append(found)
            violation.append(violated)
            out["F"], out["G"] = found, violated[:, None]

    problem = Stock(
        n_var=len(space.choices), n_obj=2, n_ieq_constr=1, xl=0, xu=space.cardinalities - 1, vtype=int
    )
    repair = Canonical()
    crossover = SBX(prob=0.9, eta=3.0, vtype=float, repair=repair)
    algorithm = NSGA2(
        population, sampling=start, crossover=crossover, mutation=PM(eta=3.0, vtype=float, repair=repair)
    )
    minimize(problem, algorithm, ("n_gen", generations + 1), seed=rng)
    return np.concatenate(rows), np.concatenate(losses), np.concatenate(violation)


def predictors() -> dict[str, Score]:
    """Speed of each predictor; returns what the inner search asks of it."""
    told, candidates = space.sample(TOLD, 0), space.sample(CANDIDATES, 1)
    scores: dict[str, Score] = {}
    for name in ("ridge", "gp"):
        predictor = get_predictor(name)
        fit = seconds(lambda p=predictor: p.fit(space.features(told), accuracy(told)))  # type: ignore[misc]
        predict = seconds(lambda p=predictor: p.predict(space.features(candidates)))  # type: ignore[misc]
        print(
            f"{name:6} fit of {TOLD}: {fit:.3f} s; "
            f"features and prediction: {CANDIDATES / predict:,.0f} candidates/s"
        )

        def score(genotypes: np.ndarray, predictor=predictor) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[no-untyped-def]
            archs = space.architectures(genotypes)
            mean, _ = predictor.predict(space.features(archs))
            return np.stack([-mean, space.macs(archs)], axis=1), np.zeros(len(archs))

        scores[name] = score
    return scores


def algorithms(scores: dict[str, Score]) -> None:
    """Candidates a second and hypervolume of every algorithm, and of pymoo's NSGA2 for comparison."""
    problem = Problem(space, tuple(hwnas.Objective(name, "min", space.macs) for name in ("one", "two")))
    runs = {
        "pymoo's NSGA2, its operators": stock,
        "pymoo's NSGA2, our operators": Pymoo(lambda _, population: NSGA2(population)),
    }
    for name, algorithm in ALGORITHMS.items():
        if algorithm.misfit(problem):
            continue
        try:
            runs[name] = get_algorithm(name, problem)
        except MissingExtraError as error:
            print(f"{name}: {error}")
    start = space.sample(POPULATION, 2).genotypes
    for label, score in scores.items():
        corner = score(start)[0].max(axis=0)
        print(f"\n{POPULATION} × {GENERATIONS} candidates by {label}, {SEEDS} seeds")
        best = None
        for name, run in runs.items():
            spent, counts, volumes = [], [], []
            for seed in range(SEEDS):
                begin = time.perf_counter()
                found, losses, _ = run(
                    space, score, start, POPULATION, GENERATIONS, np.random.default_rng(seed)
                )
                spent.append(time.perf_counter() - begin)
                counts.append(len(found))
                volumes.append(moocore.hypervolume(losses, ref=corner))
            best = best or np.mean(volumes)
            speed = statistics.median(np.divide(counts, spent))
            relative = 100 * np.array(volumes) / best
            volume = f"{relative.mean():6.2f} ± {relative.std():.2f} %"
            print(f"{name:28} {speed:9,.0f} candidates/s, hypervolume {volume}")


def main() -> None:
    scores = predictors()
    objectives = (
        hwnas.Objective("accuracy", "max", accuracy, expensive=True),
        hwnas.Objective("macs", "min", space.macs),
    )
    strategy = get_strategy("linas", Problem(space, objectives))
    told = space.sample(TOLD, 0)
    values = zip(told, accuracy(told), space.macs(told), strict=True)
    strategy.tell([Evaluation(arch, {"accuracy": a, "macs": m}) for arch, a, m in values])
    print(f"one round of linas after {TOLD} evaluations: {seconds(lambda: strategy.ask(10)):.2f} s")
    algorithms({label: scores[label] for label in sys.argv[1:] or scores})


if __name__ == "__main__":
    main()
