"""The suites accept a plug-in that works, and name the rule that a wrong one breaks."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import hwnas
from hwnas import testing
from hwnas.latency.devices.onnxruntime import OnnxRuntimeDevice
from hwnas.searching.strategies.random import Random
from hwnas.spaces import MobileNetV3Space
from hwnas.testing import ConformanceError, NotApplicable, Rule
from hwnas.testing.fakes import FakeDevice
from hwnas.testing.rules import Suite, check_rules, require, require_error
from hwnas.testing.training import tiny_space
from hwnas.training.strategies import Strategy, Subnet, Uniform

from ..searching.test_own_plugins import Nearest, Shuffled


def rule(rules: tuple[Rule, ...], name: str) -> Rule:
    """The rule of a name."""
    (found,) = (rule for rule in rules if rule.name == name)
    return found


# ---- rules ---------------------------------------------------------------------------------------


def test_a_broken_rule_is_an_assertion_error_with_name_statement_and_values() -> None:
    suite = Suite(lambda plugin: plugin)

    @suite.rule
    def is_even(plugin: int) -> None:
        """The number is even."""
        require(plugin % 2 == 0, f"{plugin} is odd.")

    @suite.each({"three": 3, "five": 5})
    def is_no_multiple(plugin: int, factor: int) -> None:
        """The number has no such factor."""
        require(plugin % factor, f"{plugin} is a multiple of {factor}.")

    assert [str(rule) for rule in suite.rules] == ["is_even", "is_no_multiple[three]", "is_no_multiple[five]"]
    check_rules(suite.rules, 4)
    with pytest.raises(AssertionError, match=r"^rule is_even: The number is even\. 7 is odd\.$"):
        check_rules(suite.rules, 7)
    with pytest.raises(ConformanceError, match=r"is_no_multiple\[five\]: .* 10 is a multiple of 5\."):
        check_rules(suite.rules, 10)
    with pytest.raises(ConformanceError, match=r"is_even: .* TypeError: not all arguments"):
        suite.rules[0]("text")


def test_a_required_error_needs_its_class_and_message() -> None:
    def call() -> None:
        raise ValueError("a wrong number")

    assert str(require_error(ValueError, "wrong", call, "a call")) == "a wrong number"
    with pytest.raises(ConformanceError, match="a call: the message 'a wrong number' has no 'other'"):
        require_error(ValueError, "other", call, "a call")
    with pytest.raises(ConformanceError, match="a call: no error was raised, but 3 returned"):
        require_error(ValueError, "", lambda: 3, "a call")


def test_the_suites_need_no_test_framework_and_are_loaded_when_used() -> None:
    code = (
        "import sys, hwnas; assert 'hwnas.testing' not in sys.modules;"
        "hwnas.testing.STRATEGY_RULES, hwnas.testing.check_predictor;"
        "assert 'torch' not in sys.modules;"
        "[getattr(hwnas.testing, name) for name in hwnas.testing.__all__];"
        "sys.exit(bool({'pytest', 'hypothesis'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert set(testing.__all__) <= set(dir(testing))
    with pytest.raises(AttributeError, match=r"'hwnas\.testing' has no attribute 'check_nothing'"):
        testing.check_nothing  # noqa: B018


# ---- strategies ----------------------------------------------------------------------------------


def test_a_strategy_that_works_is_accepted() -> None:
    testing.check_strategy(Shuffled())
    for plugin in (Random(7), Random, "random"):
        rule(testing.STRATEGY_RULES, "finds_all_of_a_small_space")(plugin)


class Forgetful(Shuffled):
    """Asks for architectures that it was told."""

    def tell(self, evaluations: Any) -> None:
        self.history.add(evaluations[:1])


class Infeasible(Shuffled):
    """Asks for architectures that the constraints forbid."""

    def ask(self, n: int, pending: Any = ()) -> Any:
        seen = {e.architecture for e in self.history._told} | set(pending)
        return [arch for arch in self.space.sample(200, len(seen)) if arch not in seen][:1]


class Greedy(Shuffled):
    """Asks for more than it may."""

    def ask(self, n: int, pending: Any = ()) -> Any:
        return super().ask(n + 1, pending)


class Moody(Shuffled):
    """Draws without the seed."""

    def begin(self, problem: Any, seed: int) -> None:
        super().begin(problem, seed)
        self.rng = np.random.default_rng()

    def ask(self, n: int, pending: Any = ()) -> Any:
        self.seed = int(self.rng.integers(2**32))
        return super().ask(n, pending)


class Impatient(Shuffled):
    """Asks for pending ones again."""

    def ask(self, n: int, pending: Any = ()) -> Any:
        return super().ask(n)


class Fragile(Shuffled):
    """Ends at a failure."""

    def ask(self, n: int, pending: Any = ()) -> Any:
        failed = [e for e in self.history._told if e.status == "failed"]
        return [] if len(failed) > 20 else super().ask(n, pending)


@pytest.mark.parametrize(
    ("plugin", "name", "message"),
    [
        (Forgetful, "asks_new_feasible_architectures[small]", r"\d+ of 60 architectures .* more than once"),
        (Infeasible, "asks_new_feasible_architectures[small]", r"\d+ of 60 .* break cost <= 9, the first"),
        (Greedy(7), "asks_new_feasible_architectures[three]", r"ask\(\d+\) returned \d+ architectures"),
        (Moody, "follows_from_seed_and_evaluations[small]", "a second ask .* returned other ones"),
        (Impatient, "does_not_ask_for_pending_again[small-25]", r"\d+ architectures .* while they were"),
        (Fragile, "goes_on_after_failures", r"after five failed batches ask\(10\) returned none"),
        (object(), "ends_with_pending", "SearchError: strategy object has no method 'begin'"),
    ],
)
def test_a_wrong_strategy_is_caught(plugin: Any, name: str, message: str) -> None:
    with pytest.raises(ConformanceError, match=message):
        rule(testing.STRATEGY_RULES, name)(plugin)


# ---- predictors ----------------------------------------------------------------------------------


class Line:
    """Least squares; what a user would write."""

    def fit(self, features: Any, targets: Any) -> None:
        self.mean, self.scale = features.mean(axis=0), features.std(axis=0) + 1e-9
        rows = self._rows(features)
        penalty = 1e-3 * len(rows) * np.eye(rows.shape[1])
        penalty[0, 0] = 0
        self.weights = np.linalg.solve(rows.T @ rows + penalty, rows.T @ targets)
        self.std = float((rows @ self.weights - targets).std())

    def predict(self, features: Any) -> Any:
        return self._rows(features) @ self.weights, np.full(len(features), self.std)

    def _rows(self, features: Any) -> Any:
        return np.column_stack([np.ones(len(features)), (features - self.mean) / self.scale])


def test_a_predictor_that_works_is_accepted() -> None:
    for plugin in (Line, Line()):
        testing.check_predictor(plugin)
    with pytest.raises(NotApplicable, match="Line is no subclass"):
        rule(testing.PREDICTOR_RULES, "refuses_unusable_rows")(Line())


class Upside(Line):
    """Predicts the negative."""

    def predict(self, features: Any) -> Any:
        mean, std = super().predict(features)
        return -mean, std


class Unsure(Line):
    """Gives negative deviations."""

    def predict(self, features: Any) -> Any:
        mean, std = super().predict(features)
        return mean, -1 - std


class Averaging(Line):
    """Remembers earlier fits."""

    rows = 0

    def fit(self, features: Any, targets: Any) -> None:
        super().fit(features, targets + self.rows)
        self.rows += len(targets)


class Unscaled(Line):
    """Depends on the unit of the targets."""

    def fit(self, features: Any, targets: Any) -> None:
        super().fit(features, np.clip(targets, -1e3, 1e3))


class Single(Nearest):
    """Fails for no rows."""

    def predict(self, features: Any) -> Any:
        features[0]
        return super().predict(features)


@pytest.mark.parametrize(
    ("plugin", "name", "message"),
    [
        (Upside, "ranks_unseen_architectures", r"Kendall's tau of 80 unseen rows is -0\.\d+"),
        (Unsure, "ranks_unseen_architectures", "a standard deviation is -"),
        (Averaging, "is_deterministic_and_forgets", "the means differ by up to"),
        (Unscaled, "does_not_depend_on_units[large]", "Kendall's tau between targets y and 1e"),
        (Single, "predicts_no_rows", "IndexError"),
        ("forest", "predicts_no_rows", "SearchError: unknown predictor 'forest'"),
    ],
)
def test_a_wrong_predictor_is_caught(plugin: Any, name: str, message: str) -> None:
    with pytest.raises(ConformanceError, match=message):
        rule(testing.PREDICTOR_RULES, name)(plugin)


# ---- spaces --------------------------------------------------------------------------------------


def wrong_space(**changes: Callable[..., Any]) -> Any:
    """The tiny space as one of a class with other methods."""
    space = tiny_space(classes=3)
    space.__class__ = type("WrongSpace", (MobileNetV3Space,), changes)
    return space


def test_spaces_that_work_are_accepted() -> None:
    testing.check_space(tiny_space(classes=3))
    testing.check_space(hwnas.SearchSpace("two", [hwnas.Choice("a", (1, 2)), hwnas.Choice("b", (3, 4))]))


@pytest.mark.parametrize(
    ("changes", "name", "message"),
    [
        ({"macs": lambda self, archs: self._macs(archs) + 1}, "sums_equal_a_loop_over_operators", "macs are"),
        (
            {"params": lambda self, archs: self._params(archs) * 2},
            "macs_and_params_are_those_of_a_trace",
            "has .* parameters, the space says",
        ),
        (
            {"input_size": lambda self, arch: 20},
            "the_inputs_have_the_declared_size",
            "has inputs of size 20",
        ),
        (
            {"all_operators": lambda self: MobileNetV3Space.all_operators(self)[1:]},
            "operators_fit_together",
            "which all_operators has not",
        ),
        (
            {"operators": lambda self, arch: MobileNetV3Space.operators(self, arch)[:1]},
            "equal_networks_are_equal_architectures",
            "that the architectures are equal, and True that the operators are",
        ),
        (
            {"model_bytes": lambda self, archs: np.zeros(len(archs))},
            "bytes_are_those_of_the_shipped_graph",
            r"bytes of weights, the space says 0",
        ),
    ],
)
def test_a_wrong_space_is_caught(changes: dict[str, Any], name: str, message: str) -> None:
    with pytest.raises(ConformanceError, match=message):
        rule(testing.SPACE_RULES, name)(wrong_space(**changes))


def test_a_canonical_hook_that_is_not_idempotent_is_caught() -> None:
    choices = [hwnas.Choice(name, (0, 1, 2)) for name in "ab"]
    space = hwnas.SearchSpace("turning", choices, canonical=lambda g: (g + 1) % 3)
    with pytest.raises(ConformanceError, match="has the canonical form"):
        testing.check_space(space)


# ---- devices -------------------------------------------------------------------------------------


def test_a_wrong_device_is_caught() -> None:
    rules = testing.DEVICE_RULES
    with pytest.raises(ConformanceError, match="the statistic is 'exact'; it is a mean"):
        rule(rules, "has_an_identity_of_plain_data")(FakeDevice())
    with pytest.raises(ConformanceError, match="within 0 seconds 100 of 100 visits"):
        rule(rules, "a_time_limit_drops_visits")(FakeDevice())
    with pytest.raises(ConformanceError, match="the large model took"):
        rule(rules, "more_work_takes_longer")(FakeDevice(cost=lambda model: 5))
    with pytest.raises(NotApplicable):
        rule(rules, "two_threads_have_another_statistic")(FakeDevice())


def test_a_device_is_an_object_a_class_or_a_name() -> None:
    for plugin in (OnnxRuntimeDevice(threads=1), OnnxRuntimeDevice, "onnxruntime"):
        rule(testing.DEVICE_RULES, "samples_follow_the_plan")(plugin)


# ---- training strategies -------------------------------------------------------------------------


class Halves(Strategy):
    """Random subnets of the first half of the steps; none later."""

    def subnets(self, step: int, rng: np.random.Generator, batch_loss: Any) -> list[Subnet]:
        return [Subnet(self.space.sample(1, rng)[0], 1, 0)] if step < self.phases[-1].end / 2 else []


class Remembering(Uniform):
    """Trains the subnet of the step before again."""

    last = None

    def subnets(self, step: int, rng: np.random.Generator, batch_loss: Any) -> list[Subnet]:
        last, self.last = self.last, super().subnets(step, rng, batch_loss)
        return last or self.last


class Unlabelled(Uniform):
    """Has a teacher and no labels."""

    def subnets(self, step: int, rng: np.random.Generator, batch_loss: Any) -> list[Subnet]:
        return [Subnet(self.space.sample(1, rng)[0], 0, 1)]


@pytest.mark.parametrize(
    ("plugin", "name", "message"),
    [
        (Halves, "names_the_subnets_of_each_step[proxyless]", "step 50 has no subnets"),
        (Remembering, "follows_from_step_and_generator", "has other subnets after another step"),
        (Unlabelled, "names_the_subnets_of_each_step[proxyless]", "the first subnet has weight 0 on labels"),
    ],
)
def test_a_wrong_training_strategy_is_caught(plugin: Any, name: str, message: str) -> None:
    with pytest.raises(ConformanceError, match=message):
        rule(testing.TRAINING_STRATEGY_RULES, name)(plugin)
