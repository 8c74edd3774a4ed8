import numpy as np
import pytest

from hwnas import Constraint, Objective
from hwnas.errors import SearchError
from hwnas.searching.objectives import Problem, checked_values
from hwnas.spaces import Architectures
from tests.searching.problems import accuracy, cost, objectives, toy_space


def test_a_direction_is_max_or_min() -> None:
    with pytest.raises(SearchError, match="maximise"):
        Objective("accuracy", "maximise", accuracy)


@pytest.mark.parametrize("bounds", [{}, {"upper": float("nan")}, {"lower": 2.0, "upper": 1.0}])
def test_a_constraint_needs_bounds_with_room_between_them(bounds: dict) -> None:
    with pytest.raises(SearchError, match="cost"):
        Constraint("cost", **bounds)


def test_violation_is_zero_exactly_within_the_bounds() -> None:
    constraint = Constraint("cost", lower=1.0, upper=2.0)
    assert constraint.violation([0.5, 1.0, 1.5, 2.0, 3.0]).tolist() == [0.5, 0.0, 0.0, 0.0, 0.5]
    assert Constraint("x", upper=0.0).violation([1e-300])[0] > 0


def test_names_are_unique_and_constraints_name_a_metric() -> None:
    space = toy_space()
    with pytest.raises(SearchError, match="'cost'"):
        Problem(space, (*objectives(), Objective("cost", "max", cost)))
    with pytest.raises(SearchError, match=r"latency_ms.*accuracy, cost"):
        Problem(space, tuple(objectives()), (Constraint("latency_ms", upper=1.0),))
    with pytest.raises(SearchError, match="at least one objective"):
        Problem(space, ())


def test_a_constraint_can_bring_a_metric_of_its_own() -> None:
    depth = Constraint("depth", upper=2, evaluate=lambda archs: [a.values["depth"] for a in archs])
    problem = Problem(toy_space(), tuple(objectives()), (depth,))
    archs = problem.space.sample(20, 0)
    metrics = problem.exact_metrics(archs)
    assert list(metrics) == ["cost", "depth"]
    assert ((problem.violation(metrics) == 0) == (archs.column("depth") <= 2)).all()


@pytest.mark.parametrize(
    ("returned", "message"),
    [(1.0, "shape"), ([1.0], "shape"), ([1.0, float("nan")], "nan"), (["a", "b"], "expected numbers")],
)
def test_what_an_evaluate_function_returns_is_checked(returned: object, message: str) -> None:
    archs = toy_space().sample(2, 0)
    with pytest.raises(SearchError, match=message):
        checked_values("cost", lambda _: returned, archs)
    assert checked_values("cost", lambda _: (1, 2), archs).dtype == np.float64


@pytest.mark.parametrize("bound", ["80", float("inf"), 1j])
def test_a_bound_is_a_finite_number(bound: object) -> None:
    with pytest.raises(SearchError, match=r"finite upper or lower bound.*upper="):
        Constraint("cost", upper=bound)


def cost_of_some(archs: object) -> np.ndarray:
    """Refuse an empty input, as scikit-learn does."""
    if len(archs) == 0:
        raise ValueError("Found array with 0 sample(s)")
    return np.asarray(cost(archs))


def test_functions_are_not_called_without_architectures() -> None:
    constraint = Constraint("own", upper=9, evaluate=cost_of_some)
    problem = Problem(toy_space(), (Objective("cost", "min", cost_of_some),), (constraint,))
    for nothing in ([], toy_space().genotypes([]), toy_space().sample(0, 0)):
        metrics = problem.exact_metrics(nothing)
        assert {name: values.shape for name, values in metrics.items()} == {"cost": (0,), "own": (0,)}
        assert problem.violation(metrics).shape == (0,)
    assert checked_values(
        "cost", cost_of_some, Architectures(toy_space(), toy_space().genotypes([]))
    ).shape == (0,)
