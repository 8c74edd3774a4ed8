"""Gradient-boosted trees, over xgboost (https://arxiv.org/abs/1603.02754)."""

from __future__ import annotations

from typing import Any

from hwnas.predictors.committee import Committee


class XGBoost(Committee):
    """Trees of two levels: deeper ones rank few rows worse."""

    name = "xgboost"

    def _member(self, seed: int) -> Any:
        from xgboost import XGBRegressor

        return XGBRegressor(
            n_estimators=200,
            learning_rate=0.1,
            max_depth=2,
            subsample=0.7,
            colsample_bytree=0.5,
            n_jobs=1,
            random_state=seed,
        )
