"""Predictor-guided NSGA-II with true evaluations in between.

Source: LINAS, https://arxiv.org/abs/2205.10358. Different from it: the start is small, spread from the
smallest to the largest and far apart in between; cheap metrics are exact in the inner search and, with sums
over alike choices, features of the predictor; and batches are chosen greedily by the hypervolume that they
promise, with some optimism, to add to the front.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import moocore
import numpy as np

from hwnas.predictors import PredictorLike, get_predictor, predictions
from hwnas.searching.feasible import Candidates, extreme, new_rows, row_keys
from hwnas.searching.objectives import Evaluation, Problem, Values, whole
from hwnas.searching.strategies.algorithms import get_algorithm
from hwnas.searching.strategies.base import History
from hwnas.searching.strategies.evolution import Score, best_first, losses
from hwnas.spaces import Architecture, Architectures, NetworkSpace, SearchSpace
from hwnas.spaces.base import Genotypes

POPULATION = 100  # of the inner search
GENERATIONS = 80
LEARNT = 2000  # evaluations that predictors learn from at most; some need their square in memory


class LINAS:
    """A start of `start` architectures, then rounds of `batch`.

    A new `predictor` learns each expensive metric in each round; `algorithm` searches its predictions.
    """

    optimism = 0.5  # standard deviations by which predictions are taken for better than their mean

    def __init__(
        self,
        predictor: str | PredictorLike | Callable[..., PredictorLike] = "gp",
        start: int = 12,
        batch: int = 10,
        algorithm: str = "nsga2",
    ) -> None:
        get_predictor(predictor)
        self.predictor = predictor
        self.algorithm = algorithm
        self.start = whole("start", start, 2)
        self.batch = whole("batch", batch, 1)
        self.parameters = {"predictor": predictor, "start": start, "batch": batch, "algorithm": algorithm}

    def begin(self, problem: Problem, seed: int) -> None:
        self._evolve = get_algorithm(self.algorithm, problem)
        self.problem = problem
        self.seed = whole("seed", seed, 0)
        self.predicted: dict[str, Values] = {}  # by metric, for the last batch
        self._history = History(problem)
        self._candidates = Candidates(problem)
        self._shares = value_shares(problem.space)

    def tell(self, evaluations: Sequence[Evaluation]) -> None:
        self._history.add(evaluations)

    def ask(self, n: int, pending: Sequence[Architecture] = ()) -> Architectures:
        asked = len(self._history) + len(pending)
        rng = np.random.default_rng([self.seed, asked])
        seen = self._history.seen(pending)
        missing = self.start - asked
        self.predicted = {}
        if missing > 0:
            n = min(n, missing)
            chosen = self._start(n, rng, seen)
        elif len(self._history.genotypes) >= 2:
            n = min(n, self.batch)
            chosen = self._promising(n, rng, seen, self.problem.space.genotypes(pending))
        else:
            n = min(n, self.batch)
            chosen = self.problem.space.genotypes([])
        if len(chosen) < n:
            seen.update(row_keys(chosen))
            chosen = np.concatenate([chosen, self._candidates.draw(n - len(chosen), rng, seen)])
        return Architectures(self.problem.space, chosen)

    # ---- start ----------------------------------------------------------------------------------

    def _start(self, n: int, rng: np.random.Generator, seen: set[bytes]) -> Genotypes:
        """Feasible architectures from the smallest to the largest of each cheap metric, far apart."""
        space, exact = self.problem.space, self.problem.exact
        chosen = space.genotypes([])
        for position, (name, evaluate) in enumerate(exact.items()):
            share = (n - len(chosen)) // (len(exact) - position)
            low, _ = extreme(space, evaluate, "min", rng, name)
            high, _ = extreme(space, evaluate, "max", rng, name)
            pool = self._between(space.genotypes([low]), space.genotypes([high]), 200 * share, rng)
            pool = new_rows(pool, seen | set(row_keys(chosen)))
            pool = pool[self._candidates.violation(pool) == 0]
            metrics = self.problem.exact_metrics(pool)
            picked = far_apart(self._features(pool, metrics), metrics[name], share, rng)
            chosen = np.concatenate([chosen, pool[picked]])
        return chosen

    def _between(self, low: Genotypes, high: Genotypes, n: int, rng: np.random.Generator) -> Genotypes:
        """n architectures on the way from `low` (1, g) by random ones to `high` (1, g), and these two.

        In half of them the choices of a group are alike: of those the predictor learns most.
        """
        space = self.problem.space
        groups = [choice.group or choice.name for choice in space.choices]
        draws = rng.random((2, n, len(groups)))
        draws[:, : n // 2] = draws[:, : n // 2, [groups.index(group) for group in groups]]
        drawn = np.floor(draws[0] * space.cardinalities).astype(np.int64)
        way = rng.random((n, 1)) * 2 - 1
        mixed = np.where(draws[1] < np.abs(way), np.where(way < 0, low, high), drawn)
        mixed = space.canonical(np.concatenate([low, high, mixed]))
        return mixed[space.valid(mixed)]

    # ---- rounds ---------------------------------------------------------------------------------

    def _promising(self, n: int, rng: np.random.Generator, seen: set[bytes], pending: Genotypes) -> Genotypes:
        """The unseen architectures that are predicted to add most hypervolume to the front.

        Those that are pending (k, g) count with what is predicted of them.
        """
        problem, space = self.problem, self.problem.space
        genotypes, metrics = self._history.genotypes, self._history.metrics
        predictors = self._learn(genotypes, metrics)
        score = self._scorer(predictors)
        told = losses(problem.objectives, metrics)
        violation = problem.violation(metrics)
        if self._candidates.every is not None:
            found = self._candidates.every
            found_losses, found_violation = score(found)
        else:
            parents = genotypes[best_first(told, violation, POPULATION // 2)]
            drawn = self._candidates.draw(POPULATION - len(parents), rng, set(row_keys(parents)))
            found, found_losses, found_violation = self._evolve(
                space, score, np.concatenate([parents, drawn]), POPULATION, GENERATIONS, rng
            )
        unseen = np.array([key not in seen for key in row_keys(found)], dtype=bool)
        allowed = np.flatnonzero(unseen & (self._candidates.violation(found) == 0))
        feasible = allowed[found_violation[allowed] == 0]
        front = told[violation == 0]
        if len(pending):
            pending_losses, pending_violation = score(pending)
            front = np.concatenate([front, pending_losses[pending_violation == 0]])
        if len(problem.objectives) == 1:
            best = self._hopeful(found[feasible], found_losses[feasible, 0], predictors, n)
        else:
            best = self._batch(found_losses[feasible], front, n)
        picked = feasible[np.array(best, dtype=np.int64)]
        rest = np.setdiff1d(allowed, picked)
        order = best_first(found_losses[rest], found_violation[rest], n - len(picked))
        chosen = np.asarray(found[np.concatenate([picked, rest[order]])])
        if len(chosen):
            metrics, _ = self._predict(predictors, chosen)
            self.predicted = {name: metrics[name] for name in predictors}
        return chosen

    def _learn(self, genotypes: Genotypes, metrics: Mapping[str, Values]) -> dict[str, PredictorLike]:
        """A predictor of each expensive metric. Of very many evaluations it learns the best and others."""
        rows = np.arange(len(genotypes))
        if len(rows) > LEARNT:
            told, violation = losses(self.problem.objectives, metrics), self.problem.violation(metrics)
            best = best_first(told, violation, LEARNT // 2)
            others = np.setdiff1d(rows, best)
            spread = np.linspace(0, len(others) - 1, LEARNT - len(best)).astype(int)
            rows = np.sort(np.concatenate([best, others[spread]]))
        metrics = {name: values[rows] for name, values in metrics.items()}
        features = self._features(genotypes[rows], metrics)
        predictors = {}
        for objective in self.problem.expensive:
            predictors[objective.name] = get_predictor(self.predictor, self.seed)
            predictors[objective.name].fit(features, metrics[objective.name])
        return predictors

    def _scorer(self, predictors: Mapping[str, PredictorLike]) -> Score:
        """What the inner search goes by: exact metrics, and optimistic predictions of the others."""
        problem = self.problem

        def score(genotypes: Genotypes) -> tuple[Values, Values]:
            metrics, deviations = self._predict(predictors, genotypes)
            hoped = losses(problem.objectives, metrics) - self.optimism * deviations
            return hoped, problem.violation(metrics)

        return score

    def _predict(
        self, predictors: Mapping[str, PredictorLike], genotypes: Genotypes
    ) -> tuple[dict[str, Values], Values]:
        """Every metric of n architectures, and the deviations of the objectives, (n, m), 0 where exact."""
        archs = Architectures(self.problem.space, genotypes)
        metrics = self.problem.exact_metrics(archs)
        rows = self._features(archs, metrics)
        deviations = {name: np.zeros(len(archs)) for name in metrics}
        for name, predictor in predictors.items():
            metrics[name], deviations[name] = predictions(predictor, rows)
        return metrics, np.stack([deviations[o.name] for o in self.problem.objectives], axis=1)

    def _hopeful(
        self, genotypes: Genotypes, losses: Values, predictors: Mapping[str, PredictorLike], n: int
    ) -> list[int]:
        """Positions of at most n of the predicted losses (k,), each chosen with more optimism than the last.

        With one objective nothing but the first of a batch promises to add to the front, and the next best
        are its near duplicates.
        """
        _, deviations = self._predict(predictors, genotypes)
        left, picked = losses.copy(), []
        for _ in range(min(n, len(losses))):
            picked.append(int(np.argmin(left)))
            left -= self.optimism * deviations[:, 0]
            left[picked] = np.inf
        return picked

    def _batch(self, losses: Values, front: Values, n: int) -> list[int]:
        """Positions of at most n of the predicted losses (k, m) that are asked for first."""
        return most_hypervolume(losses, front, n)

    def _features(self, archs: Architectures | Genotypes, metrics: Mapping[str, Values]) -> Values:
        """What predictors learn from, (n, d): the space's features, sums over alike choices, cheap metrics.

        The fewer evaluations, the more the last two say. A network's MACs and parameters are always cheap.
        """
        space = self.problem.space
        features = space.features(archs)
        cheap = [metrics[name] for name in self.problem.exact]
        if isinstance(space, NetworkSpace):
            cheap += [space.macs(archs), space.params(archs)]
        one_hot = features[:, : len(self._shares)]
        return np.concatenate(
            [features, one_hot @ self._shares, *(values[:, None] for values in cheap)], axis=1
        )


def value_shares(space: SearchSpace) -> Values:
    """(one-hot columns, k): from one-hot features to how often each value is chosen where it could be.

    Choices of the same values are alike, whatever their group, as all kernel sizes of a network are.
    """
    alike = list(dict.fromkeys((c.values, v) for c in space.choices for v in c.values))
    rows = [(c.values, v) for c in space.choices for v in c.values]
    shares = np.array([[float(row == column) for column in alike] for row in rows])
    return np.asarray(shares / shares.sum(axis=0))


def far_apart(features: Values, values: Values, n: int, rng: np.random.Generator) -> list[int]:
    """Positions of at most n rows: the smallest and largest value, and rows evenly between.

    Of the rows near an intermediate value that is taken whose features (m, d) differ most from those taken.
    """
    if len(values) == 0 or n == 0:
        return []
    scale = features.std(axis=0)
    scaled = features / np.where(scale > 0, scale, 1.0)
    low, high = values.min(), values.max()
    distance = np.full(len(values), np.inf)
    picked: list[int] = []
    for target in [low, high, *rng.permutation(np.linspace(low, high, n)[1:-1])][: min(n, len(values))]:
        off = np.abs(values - target)
        off[picked] = np.inf
        reach = (high - low) / (2 * max(n - 1, 1)) if len(picked) > 1 else 0.0
        near = np.flatnonzero(off <= max(reach, off.min()))
        picked.append(int(near[np.argmax(distance[near])]))
        distance = np.minimum(distance, ((scaled - scaled[picked[-1]]) ** 2).sum(axis=1))
    return picked


def most_hypervolume(points: Values, front: Values, n: int) -> list[int]:
    """Positions of at most n points, greedily by the hypervolume each adds to the front; all minimised."""
    if len(points) == 0:
        return []
    everything = np.concatenate([points, front])
    low, high = everything.min(axis=0), everything.max(axis=0)
    width = np.where(high > low, high - low, 1.0)
    points, front = (points - low) / width, (front - low) / width
    reference = np.full(points.shape[1], 1.1)
    nondominated = np.flatnonzero(moocore.is_nondominated(points))  # others never add more than these
    points = points[nondominated]
    gains = added_hypervolume(points, front, reference)
    picked: list[int] = []
    while len(picked) < n and gains.max() > 0:
        best = int(np.argmax(gains))
        gain = added_hypervolume(points[[best]], front, reference)[0]
        if gain < gains[best]:  # what a point adds only shrinks as the front grows: others may be better now
            gains[best] = gain
            continue
        picked.append(int(nondominated[best]))
        front = np.concatenate([front, points[[best]]])
        gains[best] = 0.0
    return picked


def added_hypervolume(points: Values, front: Values, reference: Values) -> Values:
    """The hypervolume that each point (n, m) alone adds to the front (k, m), (n,); all minimised."""
    front = front[moocore.is_nondominated(front)] if len(front) else front
    if points.shape[1] == 2:
        front = front[np.argsort(front[:, 0])]
        edges = np.concatenate([[-np.inf], front[:, 0], [reference[0]]])
        heights = np.concatenate([[reference[1]], front[:, 1]])
        widths = np.minimum(edges[1:], reference[0]) - np.maximum(edges[:-1], points[:, :1])
        drops = np.minimum(heights, reference[1]) - points[:, 1:]
        return np.asarray((np.maximum(widths, 0) * np.maximum(drops, 0)).sum(axis=1))
    base = moocore.hypervolume(front, ref=reference) if len(front) else 0.0
    gains = np.zeros(len(points))
    for i in np.flatnonzero((points < reference).all(axis=1)):
        gains[i] = moocore.hypervolume(np.concatenate([front, points[[i]]]), ref=reference) - base
    return gains
