"""Ridge regression on features and their pairwise products, in its dual form: no product is ever written out.

Source: Rasmussen and Williams 2006, section 4.2.2 and chapter 6, https://gaussianprocess.org/gpml/.
"""

from __future__ import annotations

import numpy as np

from hwnas.predictors.base import Array, Predictor

STRENGTHS = np.logspace(-4, 3, 29)  # of the penalty
SHARES = (0.02, 0.1, 0.3, 0.7)  # of the products in the kernel, the features have the rest


class Quadratic(Predictor):
    """Strength and share chosen by leave-one-out error in closed form.

    The std grows away from the rows that were learnt from; it is scaled to the leave-one-out residuals, so
    noise is a part of it.
    """

    name = "quadratic"

    def _learn(self, x: Array, y: Array) -> None:
        self._x, n, least = x, len(y), np.inf
        for share in SHARES:
            kernel = _kernel(x, x, share)
            means = kernel.mean(axis=0)
            values, vectors = np.linalg.eigh(kernel - means - means[:, None] + means.mean())
            values = np.maximum(values, 0)
            shrink = values / (values + STRENGTHS[:, None])  # (strengths, n)
            fitted = (shrink * (vectors.T @ y)) @ vectors.T
            left = np.maximum(1 - shrink @ (vectors.T**2) - 1 / n, 1e-6)  # of a row, unexplained by itself
            errors = np.mean(((y - fitted) / left) ** 2, axis=1)
            best = int(np.argmin(errors))
            if errors[best] < least:
                least, strength = errors[best], STRENGTHS[best]
                self._share, self._means, self._strength = share, means, strength
                self._half = vectors / np.sqrt(values + strength)
                self._noise = np.mean((y - fitted[best]) ** 2 / left[best])
        self._weights = self._half @ (self._half.T @ y)

    def _predict(self, x: Array) -> tuple[Array, Array]:
        cross = _kernel(x, self._x, self._share)
        own = np.mean(x**2, axis=1)
        means, total = cross.mean(axis=1), self._means.mean()
        cross = cross - means[:, None] - self._means + total
        prior = (1 - self._share) * own + self._share * own**2 - 2 * means + total
        explained = cross @ self._half
        left = np.maximum(prior - np.einsum("ij,ij->i", explained, explained), 0)
        return cross @ self._weights, np.sqrt(np.maximum(self._noise * (1 + left / self._strength), 1e-18))


def _kernel(a: Array, b: Array, share: float) -> Array:
    """(n, m) products of features, and of all their pairs."""
    linear = a @ b.T / a.shape[1]
    return np.asarray((1 - share) * linear + share * linear**2)
