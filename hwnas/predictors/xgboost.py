"""Gradient-boosted trees, over xgboost (https://arxiv.org/abs/1603.02754)."""

from __future__ import annotations

import numpy as np

from hwnas.predictors.base import Array, Predictor

MEMBERS = 4


class XGBoost(Predictor):
    """Mean of an ensemble that differs by seed and by the rows drawn; the std is the members' spread."""

    name = "xgboost"

    def _learn(self, x: Array, y: Array) -> None:
        from xgboost import XGBRegressor

        self._members = [
            XGBRegressor(
                n_estimators=200,
                learning_rate=0.08,
                max_depth=4,
                min_child_weight=1,
                subsample=0.7,
                colsample_bytree=0.5,
                n_jobs=1,
                random_state=MEMBERS * self.seed + member,
            ).fit(x, y)
            for member in range(MEMBERS)
        ]

    def _predict(self, x: Array) -> tuple[Array, Array]:
        predicted = np.array([member.predict(x) for member in self._members], dtype=float)
        return predicted.mean(axis=0), predicted.std(axis=0)
