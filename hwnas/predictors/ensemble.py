"""A weighted mean of other predictors.

Source: stacked regressions, Breiman 1996, https://doi.org/10.1007/BF00117832: the weights, none of them
negative, fit what members say of rows that they have not seen.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import nnls

from hwnas.predictors.base import Array, Predictor, folds_of, held_out
from hwnas.predictors.gp import GaussianProcess
from hwnas.predictors.mlp import MLP
from hwnas.predictors.quadratic import Quadratic
from hwnas.predictors.svr import SVR
from hwnas.predictors.xgboost import XGBoost

MEMBERS: tuple[type[Predictor], ...] = (Quadratic, SVR, GaussianProcess, XGBoost, MLP)
FOLDS = 5
FEWEST = 20  # rows; with less, members have the same weight


class Ensemble(Predictor):
    """The std holds that of the members and how far they are apart."""

    name = "ensemble"

    def _learn(self, x: Array, y: Array) -> None:
        weights = np.ones(len(MEMBERS))
        if len(y) >= FEWEST:
            fold = folds_of(len(y), FOLDS, self.seed)
            said = np.stack([held_out(kind, self.seed, x, y, fold) for kind in MEMBERS], axis=1)
            found, _ = nnls(said, y)
            weights = found if found.sum() > 0 else weights
        names, shares = [kind.name for kind in MEMBERS], (weights / weights.sum()).tolist()
        self.weights = dict(zip(names, shares, strict=True))
        self._members = [(kind(self.seed), self.weights[kind.name]) for kind in MEMBERS]
        self._members = [(member, weight) for member, weight in self._members if weight > 0]
        for member, _ in self._members:
            member.fit(x, y)

    def _predict(self, x: Array) -> tuple[Array, Array]:
        weights = np.array([weight for _, weight in self._members])
        said = np.array([member.predict(x) for member, _ in self._members])  # (members, 2, n)
        mean = weights @ said[:, 0]
        return mean, np.sqrt(weights @ (said[:, 1] ** 2 + (said[:, 0] - mean) ** 2))
