"""The predictor that cross-validation prefers, chosen anew at every fit and so as data grows."""

from __future__ import annotations

import numpy as np
from scipy.stats import kendalltau

from hwnas.predictors.base import Array, Predictor, folds_of, held_out
from hwnas.predictors.gp import GaussianProcess
from hwnas.predictors.quadratic import Quadratic
from hwnas.predictors.ridge import Ridge

# The first is the default. The others cost more than these together, and won on nothing that was measured.
CANDIDATES: tuple[type[Predictor], ...] = (GaussianProcess, Quadratic, Ridge)
FOLDS = 4
FEWEST = 20  # rows; with less, the default is taken
JUDGED = 200  # at most so many rows, drawn at random, choose


class Auto(Predictor):
    """`chosen` is the name of the predictor that was taken, `loss` how each was judged on unseen rows.

    The loss is the root mean square error in deviations of the targets, and one less Kendall's tau.
    """

    name = "auto"
    normal_targets = False  # that is for the chosen one to say

    def _learn(self, x: Array, y: Array) -> None:
        self.loss: dict[str, float] = {}
        kind = CANDIDATES[0]
        if len(y) >= FEWEST and np.ptp(y) > 0:
            rows = np.random.default_rng(self.seed).permutation(len(y))[:JUDGED]
            fold = folds_of(len(rows), FOLDS, self.seed)
            for candidate in CANDIDATES:
                self.loss[candidate.name] = loss(
                    held_out(candidate, self.seed, x[rows], y[rows], fold), y[rows]
                )
            kind = min(CANDIDATES, key=lambda candidate: self.loss[candidate.name])
        self.chosen = kind.name
        self._predictor = kind(self.seed)
        self._predictor.fit(x, y)

    def _predict(self, x: Array) -> tuple[Array, Array]:
        return self._predictor.predict(x)


def loss(predicted: Array, targets: Array) -> float:
    """0 is perfect; about 2 is knowing nothing."""
    tau = kendalltau(predicted, targets)[0]
    error = np.sqrt(np.mean((predicted - targets) ** 2)) / (np.std(targets) or 1.0)
    return float(error + 1 - (0.0 if np.isnan(tau) else tau))
