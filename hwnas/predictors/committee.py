"""Means of several regressors of one kind, each of which has not seen a part of the rows.

Source: Krogh and Vedelsby 1995, https://papers.nips.cc/paper/1994/hash/b8c37e33defde51cf91e1e03e51657da.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np

from hwnas.predictors.base import Array, Predictor, folds_of, rms

MEMBERS = 5


class Committee(Predictor):
    """Every member leaves out another fifth of the rows.

    The std holds how far the members are apart, and the root mean square error on the rows left out.
    """

    @abstractmethod
    def _member(self, seed: int) -> Any:
        """A regressor with scikit-learn's `fit` and `predict`."""

    def _learn(self, x: Array, y: Array) -> None:
        fold = folds_of(len(y), min(MEMBERS, len(y)), self.seed)
        residuals = np.empty(len(y))
        self._members = []
        for part in range(int(fold.max()) + 1):
            member = self._member(MEMBERS * self.seed + part)
            member.fit(x[fold != part], y[fold != part])
            residuals[fold == part] = y[fold == part] - member.predict(x[fold == part])
            self._members.append(member)
        self._error = rms(residuals)

    def _predict(self, x: Array) -> tuple[Array, Array]:
        said = np.array([member.predict(x) for member in self._members], dtype=np.float64)
        return said.mean(axis=0), np.sqrt(said.var(axis=0) + self._error**2)
