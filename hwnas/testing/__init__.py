"""Conformance suites: what hwnas relies on in a space, strategy, predictor, device or training strategy.

    hwnas.testing.check_space(MySpace())
    hwnas.testing.check_strategy(MyStrategy)
    hwnas.testing.check_predictor(MyPredictor())
    hwnas.testing.check_device("onnxruntime")
    hwnas.testing.check_training_strategy(MyTrainingStrategy)

Each raises a `ConformanceError`, which is an AssertionError, that names the rule that was broken. The rules
are also there one by one, so that a test framework can report each by its name:

    @pytest.mark.parametrize("rule", hwnas.testing.STRATEGY_RULES, ids=str)
    def test_my_strategy(rule):
        rule(MyStrategy)

The suites need no test framework; random cases are drawn by fixed seeds.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hwnas.testing.devices import DEVICE_RULES, check_device
    from hwnas.testing.predictors import PREDICTOR_RULES, check_predictor
    from hwnas.testing.rules import ConformanceError, NotApplicable, Rule
    from hwnas.testing.spaces import SPACE_RULES, check_space
    from hwnas.testing.strategies import STRATEGY_RULES, check_strategy
    from hwnas.testing.training import TRAINING_STRATEGY_RULES, check_training_strategy

_HOMES = {
    "ConformanceError": "rules",
    "DEVICE_RULES": "devices",
    "NotApplicable": "rules",
    "PREDICTOR_RULES": "predictors",
    "Rule": "rules",
    "SPACE_RULES": "spaces",
    "STRATEGY_RULES": "strategies",
    "TRAINING_STRATEGY_RULES": "training",
    "check_device": "devices",
    "check_predictor": "predictors",
    "check_space": "spaces",
    "check_strategy": "strategies",
    "check_training_strategy": "training",
}

__all__ = [
    "DEVICE_RULES",
    "PREDICTOR_RULES",
    "SPACE_RULES",
    "STRATEGY_RULES",
    "TRAINING_STRATEGY_RULES",
    "ConformanceError",
    "NotApplicable",
    "Rule",
    "check_device",
    "check_predictor",
    "check_space",
    "check_strategy",
    "check_training_strategy",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'hwnas.testing' has no attribute {name!r}")
    return getattr(import_module(f"hwnas.testing.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
