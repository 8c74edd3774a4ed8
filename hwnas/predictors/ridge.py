"""Ridge regression, its strength chosen by leave-one-out error in closed form."""

from __future__ import annotations

import numpy as np

from hwnas.predictors.base import Array, Predictor, rms

STRENGTHS = np.logspace(-2, 4, 25)


class Ridge(Predictor):
    """Linear with a quadratic penalty; the std is the root mean square of leave-one-out residuals."""

    name = "ridge"
    normal_targets = False  # linear in the targets' own unit, as the latency of a sum of operators is

    def _learn(self, x: Array, y: Array) -> None:
        u, s, vt = np.linalg.svd(x, full_matrices=False)
        projected = u.T @ y
        shrink = s**2 / (s**2 + STRENGTHS[:, None])  # (strengths, rank)
        fitted = (shrink * projected) @ u.T
        leverage = shrink @ (u.T**2) + 1.0 / len(y)  # the mean is fitted too
        residuals = (y - fitted) / np.maximum(1 - leverage, 1e-6)
        best = int(np.argmin(np.mean(residuals**2, axis=1)))
        self._weights = vt.T @ (s / (s**2 + STRENGTHS[best]) * projected)
        self._std = rms(residuals[best])

    def _predict(self, x: Array) -> tuple[Array, Array]:
        mean = x @ self._weights
        return mean, np.full(len(mean), self._std)
