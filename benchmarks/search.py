"""Evaluations that each strategy needs, on two problems whose true values somebody else measured.

    python benchmarks/search.py macro --data FOLDER --seeds 20
    python benchmarks/search.py ofa --data FOLDER --seeds 5

macro: NAS-Bench-Macro on CIFAR-10, complete (nasbench_macro_cifar10.csv.gz). ofa: a surrogate of ImageNet
accuracies of once-for-all MobileNetV3 networks (ofa_mbv3_w10_imagenet_acc_evo.csv.gz), searched in its whole
space. Prints one line a strategy.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import hwnas
from hwnas.predictors import Predictor, get_predictor
from hwnas.searching.feasible import Candidates, new_rows, row_keys
from hwnas.searching.objectives import Evaluation, Problem
from hwnas.searching.pareto import hypervolume
from hwnas.searching.strategies import STRATEGIES
from hwnas.searching.strategies.base import History
from hwnas.searching.strategies.evolution import best_first, evolve, losses
from hwnas.spaces import Architecture, Architectures

MACRO_VALUES = ("skip", "k3e3", "k5e6")
MACRO_STAGES = ((0, 2), (2, 5), (5, 8))
MACRO_REFERENCE, MACRO_BEST = (80.0, 110.0), 1076.281475  # accuracy %, MFLOPs; exact hypervolume
OFA_REFERENCE = (70.0, 600.0)  # top-1 %, MMACs


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


def macro_problem(data: Path) -> Problem:
    """Accuracy (mean of three trainings, %) and MFLOPs of all 3969 networks."""
    space = macro_space()
    table = pd.read_csv(data / "nasbench_macro_cifar10.csv.gz", dtype={"arch": str})
    genotypes = space.canonical(np.array([[int(c) for c in arch] for arch in table["arch"]]))
    rows = dict(zip(row_keys(genotypes), table[["mean_acc", "flops"]].to_numpy(), strict=True))

    def column(index: int, unit: float) -> Any:
        return lambda archs: np.array([rows[key][index] / unit for key in row_keys(space.genotypes(archs))])

    accuracy = hwnas.Objective("accuracy", "max", column(0, 1.0), expensive=True)
    return Problem(space, (accuracy, hwnas.Objective("mflops", "min", column(1, 1e6))))


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
        from sklearn.model_selection import KFold, cross_val_predict
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
        from sklearn.svm import SVR

        self.space = archs.origin
        features = self._features(archs)
        self._machine = make_pipeline(
            StandardScaler(), SVR(C=10, epsilon=0.02, gamma=0.1 / features.shape[1])
        )
        folds = KFold(5, shuffle=True, random_state=0)
        self.held_out = cross_val_predict(self._machine, features, top1, cv=folds)
        self._machine.fit(features, top1)

    def __call__(self, archs: Any) -> np.ndarray:
        return np.asarray(self._machine.predict(self._features(archs)))

    def _features(self, archs: Any) -> np.ndarray:
        return np.column_stack([self.space.features(archs), self.space.macs(archs)])


def ofa_problem(data: Path) -> Problem:
    from scipy.stats import kendalltau

    archs, top1 = ofa_rows(data)
    surrogate = Surrogate(archs, top1)
    error = np.abs(surrogate.held_out - top1).mean()
    print(f"surrogate of {len(top1)} networks, 5-fold: mean error {error:.3f} % top-1, "
          f"Kendall tau {kendalltau(surrogate.held_out, top1)[0]:.3f}")  # fmt: skip
    space = archs.origin
    accuracy = hwnas.Objective("accuracy", "max", surrogate, expensive=True)
    return Problem(space, (accuracy, hwnas.Objective("mmacs", "min", lambda a: space.macs(a) / 1e6)))


def best_known(problem: Problem, data: Path) -> float:
    """Hypervolume of a long NSGA-II on the surrogate itself, begun from the file's networks."""
    space = problem.space
    start = np.concatenate([ofa_rows(data)[0].genotypes, space.sample(200, 0).genotypes])

    def score(genotypes: Any) -> Any:
        archs = Architectures(space, genotypes)
        metrics = {o.name: o.evaluate(archs) for o in problem.objectives}
        return losses(problem.objectives, metrics), np.zeros(len(genotypes))

    _, found, _ = evolve(space, score, start, 200, 250, np.random.default_rng(0))
    return hypervolume(found * [-1, 1], OFA_REFERENCE, ["max", "min"])


class PublishedLINAS:
    """LINAS as it was published: random start, all objectives predicted, 50 a round from the last generation.

    https://arxiv.org/abs/2205.10358. The predictor is ridge regression on one-hot choices.
    """

    def __init__(self, problem: Problem, seed: int = 0) -> None:
        self.problem, self.seed = problem, seed
        self._history, self._candidates = History(problem), Candidates(problem)

    def tell(self, evaluations: Sequence[Evaluation]) -> None:
        self._history.add(evaluations)

    def ask(self, n: int, pending: Sequence[Architecture] = ()) -> Architectures:
        space, n = self.problem.space, min(n, 50)
        rng = np.random.default_rng([self.seed, len(self._history)])
        seen = self._history.seen(pending)
        chosen = space.genotypes([])
        if len(self._history):
            metrics = self._history.metrics
            predictors: dict[str, Predictor] = {
                o.name: get_predictor("ridge") for o in self.problem.objectives
            }
            for name, predictor in predictors.items():
                predictor.fit(self._one_hot(self._history.genotypes), metrics[name])

            def score(genotypes: Any) -> Any:
                rows = self._one_hot(genotypes)
                found = {name: predictor.predict(rows)[0] for name, predictor in predictors.items()}
                return losses(self.problem.objectives, found), np.zeros(len(genotypes))

            start = space.sample(50, rng).genotypes
            found, values, violation = evolve(space, score, start, 50, 100, rng)
            chosen = new_rows(found[best_first(values, violation, len(found))], seen)[:n]
        seen.update(row_keys(chosen))
        drawn = self._candidates.draw(n - len(chosen), rng, seen)
        return Architectures(space, np.concatenate([chosen, drawn]))

    def _one_hot(self, genotypes: Any) -> np.ndarray:
        return self.problem.space.features(genotypes)[:, : int(self.problem.space.cardinalities.sum())]


def traces(
    problem: Problem, strategy: str, seeds: int, evaluations: int, reference: tuple[float, float]
) -> np.ndarray:
    """(seeds, evaluations) hypervolumes."""
    found = []
    for seed in range(seeds):
        result = hwnas.search(
            problem.space, problem.objectives, strategy=strategy, evaluations=evaluations, seed=seed
        )
        found.append(result.hypervolume_trace(reference))
    return np.array(found)


def evaluations_to(trace: np.ndarray, share: float, best: float) -> np.ndarray:
    """(seeds,) evaluations until the share of the best; infinite where they did not do."""
    reached = trace >= share * best
    return np.where(reached.any(axis=1), reached.argmax(axis=1) + 1.0, np.inf)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("problem", choices=["macro", "ofa"])
    parser.add_argument("--data", type=Path, required=True, help="folder of the two files")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--strategies", nargs="+", default=["linas", "nsga2", "random"])
    parser.add_argument("--evaluations", type=int, default=500)
    options = parser.parse_args()
    STRATEGIES["published-linas"] = PublishedLINAS
    if options.problem == "macro":
        problem = macro_problem(options.data)
        for name in options.strategies:
            trace = traces(problem, name, options.seeds, options.evaluations, MACRO_REFERENCE)
            texts = []
            for share in (0.99, 0.999):
                needed = evaluations_to(trace, share, MACRO_BEST)
                texts.append(f"{100 * share:g} %: median {np.median(needed):g}, worst {needed.max():g}")
            print(f"{name:16} evaluations to {'; '.join(texts)} of {options.seeds} seeds", flush=True)
        return
    problem = ofa_problem(options.data)
    best = best_known(problem, options.data)
    print(f"best known hypervolume {best:.2f}")
    for name in options.strategies:
        trace = traces(problem, name, options.seeds, options.evaluations, OFA_REFERENCE) / best * 100
        marks = [k for k in (50, 62, 75, 100, 200, 300, 500) if k <= options.evaluations]
        texts = [f"{k}: {trace[:, k - 1].mean():.1f}" for k in marks]
        print(f"{name:16} % of it after {', '.join(texts)}; mean of {options.seeds} seeds", flush=True)


if __name__ == "__main__":
    main()
