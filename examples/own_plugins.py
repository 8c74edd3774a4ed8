"""A search strategy and a predictor of your own, given to the search as objects."""

from pathlib import Path

import numpy as np

import hwnas
from hwnas.predictors import get_predictor, predictions
from hwnas.searching.strategies import Candidates, History

HERE = Path(__file__).parent
TABLE = HERE.parent / "latency_tables" / "amd-epyc-1-thread-digits.json"


class Line:
    """Ridge regression on scaled features; every prediction has the same standard deviation."""

    def fit(self, features, targets):
        self.mean, self.scale = features.mean(axis=0), features.std(axis=0) + 1e-9
        rows = self.rows(features)
        penalty = 1e-3 * len(rows) * np.diag(np.arange(rows.shape[1]) > 0)  # the first column is constant
        self.weights = np.linalg.solve(rows.T @ rows + penalty, rows.T @ targets)
        self.std = np.std(rows @ self.weights - targets)

    def predict(self, features):
        return self.rows(features) @ self.weights, np.full(len(features), self.std)

    def rows(self, features):
        return np.column_stack([np.ones(len(features)), (features - self.mean) / self.scale])


class HalfPredicted:
    """Batches of which one half is random, and the other has the best predictions of the first objective."""

    def __init__(self, predictor="ridge", batch=6, pool=200):
        self.predictor, self.batch, self.pool = predictor, batch, pool
        self.parameters = {
            "predictor": predictor,
            "batch": batch,
            "pool": pool,
        }  # a resumed search has the same

    def begin(self, problem, seed):
        self.problem, self.seed = problem, seed
        self.history, self.candidates = History(problem), Candidates(problem)

    def tell(self, evaluations):
        self.history.add(evaluations)

    def ask(self, n, pending=()):
        space, objective = self.problem.space, self.problem.objectives[0]
        rng = np.random.default_rng([self.seed, len(self.history), len(pending)])
        drawn = self.candidates.draw(self.pool, rng, self.history.seen(pending))  # new and feasible ones
        n, genotypes = min(n, self.batch), self.history.genotypes
        order = np.arange(len(drawn))
        if len(genotypes) >= self.batch:
            predictor = get_predictor(self.predictor, self.seed)
            predictor.fit(space.features(genotypes), self.history.metrics[objective.name])
            mean, _ = predictions(predictor, space.features(drawn))
            best = np.argsort(-mean if objective.direction == "max" else mean, kind="stable")[: n // 2]
            order = np.concatenate([best, np.setdiff1d(order, best)])
        return space.architectures(drawn[order[:n]])


def main(evaluations=60):
    net = hwnas.load_supernet(HERE / "supernets" / "digits")
    data = [hwnas.load_dataset("cluttered-digits", split=split) for split in ("train", "validation")]
    accuracy = hwnas.Objective("accuracy", "max", hwnas.AccuracyEvaluator(net, *data), expensive=True)
    latency = hwnas.Objective("latency_ms", "min", hwnas.LatencyTable.load(TABLE).latency_ms)
    strategy = HalfPredicted(predictor=Line())
    result = hwnas.search(net.space, [accuracy, latency], strategy=strategy, evaluations=evaluations, seed=0)
    return result.front


if __name__ == "__main__":
    hwnas.testing.check_predictor(Line())  # names the rule that one breaks
    hwnas.testing.check_strategy(HalfPredicted)
    print(main().to_frame()[["accuracy", "latency_ms"]].to_string(index=False))
