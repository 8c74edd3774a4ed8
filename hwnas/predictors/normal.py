"""A transform that makes values normal: accuracies saturate, latencies have a tail.

Source: Yeo and Johnson 2000, https://doi.org/10.1093/biomet/87.4.954.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import yeojohnson, yeojohnson_normmax

Array = NDArray[np.float64]


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
