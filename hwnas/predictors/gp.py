"""Gaussian process in numpy.

Source: Rasmussen and Williams 2006, chapters 2, 4 and 5, https://gaussianprocess.org/gpml/; the targets are
made normal by Yeo and Johnson 2000, https://doi.org/10.1093/biomet/87.4.954, since accuracies saturate.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.optimize import minimize
from scipy.stats import yeojohnson, yeojohnson_normmax

from hwnas.predictors.base import Array, Scaler

LEARNING_ROWS = 256  # hyperparameters are learnt from at most so many rows, spread evenly
STEPS = 25  # of L-BFGS on the marginal likelihood
# Logarithms of variance and length scale of a kernel, and of the noise: where learning starts and how far it
# strays (deviation of a normal prior), for scaled features and targets.
VARIANCE, LENGTH, NOISE = (-1.0, 2.0), (0.5, 1.0), (-3.5, 1.5)
CHUNK = 2048


class GaussianProcess:
    """Sum of two Matérn-5/2 kernels, one over indicator columns (0 or 1) and one over all other columns.

    Hyperparameters maximise the marginal likelihood. The std is that of the posterior, noise left out,
    carried from the transformed targets back to the targets' unit.
    """

    def __init__(self, seed: int = 0) -> None:
        """Nothing is drawn; the seed is that of every predictor."""

    def fit(self, features: Array, targets: Array) -> None:
        self._scaler = Scaler(features, targets)
        indicator = ((features == 0) | (features == 1)).all(axis=0)
        self._blocks = [np.flatnonzero(block) for block in (indicator, ~indicator) if block.any()]
        self._warp = YeoJohnson(self._scaler.targets(targets))
        x, y = self._scaler.features(features), self._warp.forward(self._scaler.targets(targets))
        rows = np.unique(np.linspace(0, len(y) - 1, LEARNING_ROWS).astype(int))
        self._learn([_squares(x[rows][:, block], x[rows][:, block]) for block in self._blocks], y[rows])
        self._x = x
        squares = [_squares(x[:, block], x[:, block]) for block in self._blocks]
        root = cholesky(self._kernel(squares) + self._noise * np.eye(len(y)), lower=True)
        self._inverse = solve_triangular(root, np.eye(len(y)), lower=True)
        self._weights = self._inverse.T @ (self._inverse @ y)

    def predict(self, features: Array) -> tuple[Array, Array]:
        x = self._scaler.features(features)
        mean, std = np.empty(len(x)), np.empty(len(x))
        for begin in range(0, len(x), CHUNK):
            part = slice(begin, begin + CHUNK)
            cross = self._kernel([_squares(x[part, block], self._x[:, block]) for block in self._blocks])
            explained = cross @ self._inverse.T
            variance = self._variances.sum() - np.einsum("ij,ij->i", explained, explained)
            mean[part] = cross @ self._weights
            std[part] = np.sqrt(np.maximum(variance, 1e-12))
        above, below = self._warp.inverse(mean + std), self._warp.inverse(mean - std)
        return self._scaler.restore(self._warp.inverse(mean), (above - below) / 2)

    def _kernel(self, squares: list[Array]) -> Array:
        total = np.zeros(squares[0].shape)
        for square, variance, length in zip(squares, self._variances, self._lengths, strict=True):
            scaled = np.sqrt(5 * square) / length
            total += variance * (1 + scaled + scaled**2 / 3) * np.exp(-scaled)
        return total

    def _learn(self, squares: list[Array], y: Array) -> None:
        prior = np.array([VARIANCE, LENGTH] * len(squares) + [NOISE])

        def loss(theta: Array) -> tuple[float, Array]:
            """Minus the logarithm of likelihood times prior, and its gradient."""
            covariance = np.exp(theta[-1]) * np.eye(len(y))
            slopes = []
            for square, variance, length in zip(
                squares, np.exp(theta[:-1:2]), np.exp(theta[1::2]), strict=True
            ):
                scaled = np.sqrt(5 * square) / length
                decay = variance * np.exp(-scaled)
                slopes += [decay * (1 + scaled + scaled**2 / 3), decay * scaled**2 * (1 + scaled) / 3]
                covariance += slopes[-2]
            root = cholesky(covariance, lower=True)
            inverse = cho_solve((root, True), np.eye(len(y)))
            weights = inverse @ y
            pull = inverse - np.outer(weights, weights)
            gradient = [0.5 * float(np.vdot(pull, slope)) for slope in slopes]
            gradient.append(0.5 * float(np.exp(theta[-1]) * np.trace(pull)))
            strayed = (theta - prior[:, 0]) / prior[:, 1]
            value = 0.5 * float(y @ weights) + float(np.log(np.diag(root)).sum())
            return value + 0.5 * float(strayed @ strayed), np.array(gradient) + strayed / prior[:, 1]

        bounds = [(mean - 4 * deviation, mean + 4 * deviation) for mean, deviation in prior]
        found = minimize(
            loss, prior[:, 0], jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": STEPS}
        )
        self._variances, self._lengths = np.exp(found.x[:-1:2]), np.exp(found.x[1::2])
        self._noise = float(np.exp(found.x[-1]))


class YeoJohnson:
    """The transform of this family that makes values most normal, scaled; linear beyond the values seen."""

    def __init__(self, values: Array) -> None:
        self._power = float(np.clip(yeojohnson_normmax(values), -10, 10)) if np.ptp(values) > 0 else 1.0
        self._ends = np.array([values.min(), values.max()])
        moved = self._raw(values)
        self._mean, self._scale = float(moved.mean()), float(moved.std()) or 1.0

    def forward(self, values: Array) -> Array:
        return np.asarray((self._raw(values) - self._mean) / self._scale)

    def inverse(self, moved: Array) -> Array:
        raw = moved * self._scale + self._mean
        low, high = self._raw(self._ends)
        inside = np.clip(raw, low, high)
        up, down = self._power, 2 - self._power
        positive, negative = np.maximum(inside, 0), np.maximum(-inside, 0)
        above = np.expm1(np.log1p(up * positive) / up) if up else np.expm1(positive)
        below = np.expm1(np.log1p(down * negative) / down) if down else np.expm1(negative)
        slope = (1 + np.abs(self._ends)) ** np.where(self._ends > 0, 1 - up, up - 1)
        beyond = np.minimum(raw - low, 0) * slope[0] + np.maximum(raw - high, 0) * slope[1]
        return np.asarray(np.where(inside >= 0, above, -below) + beyond)

    def _raw(self, values: Array) -> Array:
        return np.asarray(yeojohnson(values, self._power))


def _squares(a: Array, b: Array) -> Array:
    """(n, m) mean squared differences of rows."""
    total = np.einsum("ij,ij->i", a, a)[:, None] + np.einsum("ij,ij->i", b, b) - 2 * (a @ b.T)
    return np.asarray(np.maximum(total, 0) / a.shape[1])
