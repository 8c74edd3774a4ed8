"""Speed of the search's inner loop over the once-for-all MobileNetV3 space and its algorithms, on one core.

OMP_NUM_THREADS=1 python benchmarks/inner_loop.py [ridge] [gp]
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

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
from hwnas.latency.table import LatencyTable
from hwnas.searching.objectives import Evaluation, Problem
from hwnas.searching.strategies import ALGORITHMS
from hwnas.searching.strategies.algorithms import Pymoo, get_algorithm
from hwnas.searching.strategies.evolution import Score
from hwnas.searching.strategies.linas import GENERATIONS, LINAS, POPULATION

TOLD, SEEDS = 300, 10
TABLE = Path(__file__).parents[1] / "latency_tables" / "amd-epyc-1-thread-ofa-mobilenetv3.json"

space = hwnas.get_space("mobilenetv3", resolutions=(128, 160, 192, 224))


def accuracy(archs: object) -> np.ndarray:
    """Saturates with MACs and parameters; stages want to be balanced, so that not all is size."""
    depths = np.stack([archs.column(f"stage{i}.depth") for i in range(1, 6)], axis=1)  # type: ignore[attr-defined]
    return 80 - 4e8 / (space.macs(archs) + 0.1 * space.params(archs)) - 0.2 * depths.std(axis=1)


def seconds(work: Callable[[], object], repeats: int = 5) -> float:
    """Median seconds of processor time."""
    found = []
    for _ in range(repeats):
        begin = time.process_time()
        work()
        found.append(time.process_time() - begin)
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


def problem() -> Problem:
    """Accuracy, predicted, against table latency, which has a bound that a tenth of the space exceeds."""
    table = LatencyTable.load(TABLE)
    objectives = (
        hwnas.Objective("accuracy", "max", accuracy, expensive=True),
        hwnas.Objective("latency_ms", "min", table.latency_ms),
    )
    bound = float(np.quantile(table.latency_ms(space.sample(1000, 4)), 0.9))
    return Problem(space, objectives, (hwnas.Constraint("latency_ms", upper=bound),))


def strategies(given: Problem) -> dict[str, LINAS]:
    """LINAS by each predictor, told TOLD evaluations; prints how fast these are."""
    archs = space.sample(TOLD, 0)
    metrics = {"accuracy": accuracy(archs), **given.exact_metrics(archs)}
    found = {}
    for name in ("ridge", "gp"):
        found[name] = LINAS(predictor=name)
        found[name].begin(given, 0)
        rows = zip(archs, *metrics.values(), strict=True)
        found[name].tell([Evaluation(arch, dict(zip(metrics, row, strict=True))) for arch, *row in rows])
        fit = seconds(lambda s=found[name]: s._learn(archs.genotypes, metrics))  # type: ignore[misc]
        print(
            f"{name:6} fit of {TOLD}: {fit:.3f} s; one round of linas after {TOLD} evaluations: "
            f"{seconds(lambda s=found[name]: s.ask(10)):.2f} s"  # type: ignore[misc]
        )
    return found


def algorithms(given: Problem, scores: dict[str, Score]) -> None:
    """Candidates a second and hypervolume of every algorithm, and of pymoo's NSGA2 for comparison."""
    runs = {
        "pymoo's NSGA2, its operators": stock,
        "pymoo's NSGA2, our operators": Pymoo(lambda _, population: NSGA2(population)),
    }
    for name, algorithm in ALGORITHMS.items():
        if algorithm.misfit(given):
            continue
        try:
            runs[name] = get_algorithm(name, given)
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
                begin = time.process_time()
                found, losses, violation = run(
                    space, score, start, POPULATION, GENERATIONS, np.random.default_rng(seed)
                )
                spent.append(time.process_time() - begin)
                counts.append(len(found))
                volumes.append(moocore.hypervolume(losses[violation == 0], ref=corner))
            best = best or np.mean(volumes)
            speeds = np.divide(counts, spent)
            relative = 100 * np.array(volumes) / best
            spread = f"({speeds.min():,.0f} to {speeds.max():,.0f})"
            volume = f"hypervolume {relative.mean():6.2f} ± {relative.std():.2f} %"
            print(f"{name:28} {np.median(speeds):9,.0f} candidates/s {spread}, {volume}")


def main() -> None:
    given = problem()
    archs = space.sample(TOLD, 0)
    metrics = {"accuracy": accuracy(archs), **given.exact_metrics(archs)}
    scores = {}
    for name, strategy in strategies(given).items():
        scores[name] = strategy._scorer(strategy._learn(archs.genotypes, metrics))
    algorithms(given, {name: scores[name] for name in sys.argv[1:] or scores})


if __name__ == "__main__":
    main()
