import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwnas import Constraint, Evaluation, Objective, ParetoFront
from hwnas.errors import InfeasibleError, SearchError
from hwnas.searching.pareto import hypervolume
from tests.searching.problems import accuracy, cost, toy_space

OBJECTIVES = [Objective("accuracy", "max", accuracy), Objective("cost", "min", cost)]


def evaluations(points: object) -> list[Evaluation]:
    archs = toy_space().sample(max(1, len(points)), 0)
    return [
        Evaluation(arch, {"accuracy": float(a), "cost": float(c)})
        for (a, c), arch in zip(points, archs, strict=False)
    ]


grids = hnp.arrays(np.int64, st.tuples(st.integers(1, 30), st.just(2)), elements=st.integers(0, 8))


@given(grids)
def test_the_front_beats_or_equals_everything_and_itself_is_beaten_by_none(points: np.ndarray) -> None:
    front = ParetoFront.of(evaluations(points), OBJECTIVES)

    def beats(a: np.ndarray, b: np.ndarray) -> bool:
        return bool(a[0] >= b[0] and a[1] <= b[1] and (a != b).any())

    assert not any(beats(a, b) for a in points for b in front.points)
    assert all(any(beats(b, a) or (a == b).all() for b in front.points) for a in points)
    assert len(np.unique(front.points, axis=0)) == len(front)
    assert (np.diff(front.points[:, 0]) < 0).all()


def test_failed_and_infeasible_ones_are_never_on_it() -> None:
    found = evaluations([(90, 5), (80, 3), (99, 9)])
    found.append(Evaluation(found[0].architecture, {"cost": 1.0}, "failed", "boom"))
    front = ParetoFront.of(found, OBJECTIVES, [Constraint("cost", upper=5)])
    assert front.points.tolist() == [[90, 5], [80, 3]]
    assert len(ParetoFront.of(found[3:], OBJECTIVES)) == 0
    with pytest.raises(SearchError, match="latency_ms"):
        ParetoFront.of(found, OBJECTIVES, [Constraint("latency_ms", upper=5)])


def test_best_under_bounds() -> None:
    front = ParetoFront.of(evaluations([(90, 5), (80, 3), (70, 1)]), OBJECTIVES)
    assert front.best().metrics["accuracy"] == 90
    assert front.best(max_cost=4).metrics["accuracy"] == 80
    assert front.best(max_cost=4, min_accuracy=75).metrics["cost"] == 3
    with pytest.raises(InfeasibleError, match=r"cost <= 0.5.*nearest has 1"):
        front.best(max_cost=0.5)
    with pytest.raises(InfeasibleError, match=r"accuracy >= 95.*nearest has 90"):
        front.best(min_accuracy=95)
    with pytest.raises(SearchError, match=r"max_latency.*max_cost"):
        front.best(max_latency=1)
    with pytest.raises(InfeasibleError, match="empty"):
        ParetoFront((), tuple(OBJECTIVES)).best()


def test_the_frame_has_objectives_in_order_then_the_architecture() -> None:
    frame = ParetoFront.of(evaluations([(90, 5), (80, 3)]), OBJECTIVES).to_frame()
    assert list(frame.columns) == ["accuracy", "cost", "architecture"]
    assert frame["accuracy"].tolist() == [90, 80]
    assert frame["architecture"][0]["depth"] >= 1


@given(grids.filter(len), st.integers(0, 3))
def test_hypervolume_counts_the_unit_cells_that_are_dominated(points: np.ndarray, kind: int) -> None:
    directions = [("max", "max"), ("max", "min"), ("min", "max"), ("min", "min")][kind]
    reference = [0 if d == "max" else 8 for d in directions]
    cells = np.stack(np.meshgrid(np.arange(8) + 0.5, np.arange(8) + 0.5), axis=-1).reshape(-1, 2)
    sign = np.array([1 if d == "max" else -1 for d in directions])
    dominated = ((points[:, None] * sign) >= (cells[None] * sign)).all(axis=2).any(axis=0).sum()
    assert hypervolume(points, reference, directions) == pytest.approx(dominated)


@pytest.mark.parametrize("m", [1, 3, 4])
def test_hypervolume_in_other_dimensions_agrees_with_monte_carlo(m: int) -> None:
    rng = np.random.default_rng(m)
    points, draws = rng.random((12, m)), rng.random((100_000, m))
    share = (points[:, None] <= draws[None]).all(axis=2).any(axis=0).mean()
    assert hypervolume(points, np.ones(m)) == pytest.approx(share, abs=0.01)


def test_hypervolume_refuses_what_does_not_fit() -> None:
    assert hypervolume([], [1.0, 1.0]) == 0.0
    with pytest.raises(SearchError, match="one reference value"):
        hypervolume([[1.0, 2.0]], [3.0])
    with pytest.raises(SearchError, match="max"):
        hypervolume([[1.0, 2.0]], [3.0, 3.0], ["max", "up"])
    with pytest.raises(SearchError, match="finite"):
        hypervolume([[1.0, float("nan")]], [3.0, 3.0])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_is_refused(value: float) -> None:
    archs = toy_space().sample(2, 0)
    evaluations = [Evaluation(archs[0], {"f": 1.0}), Evaluation(archs[1], {"f": value})]
    with pytest.raises(SearchError, match="status 'failed'"):
        ParetoFront.of(evaluations, [Objective("f", "min", cost)])


def test_the_knee_lies_farthest_beyond_the_chord() -> None:
    front = ParetoFront.of(evaluations([(100, 10), (95, 2), (80, 1), (60, 0)]), OBJECTIVES)
    assert front.knee is not None
    assert front.knee.metrics == {"accuracy": 95.0, "cost": 2.0}
    straight = ParetoFront.of(evaluations([(2, 2), (1, 1), (0, 0)]), OBJECTIVES)
    assert straight.knee is None
    hollow = ParetoFront.of(evaluations([(10, 10), (1, 9), (0, 0)]), OBJECTIVES)
    assert hollow.knee is None
    assert ParetoFront.of(evaluations([(10, 10), (0, 0)]), OBJECTIVES).knee is None
    assert ParetoFront((), tuple(OBJECTIVES)).knee is None


@given(grids, st.integers(1, 9), st.integers(-9, 9))
def test_the_knee_does_not_depend_on_units(points: np.ndarray, scale: int, offset: int) -> None:
    front = ParetoFront.of(evaluations(points), OBJECTIVES)
    scaled = ParetoFront.of(evaluations(points * [1, scale] + [0, offset]), OBJECTIVES)
    assert (front.knee is None) == (scaled.knee is None)
    if front.knee is not None and scaled.knee is not None:
        best, span = front.points[[0, -1]].max(axis=0), np.ptp(front.points, axis=0)
        worst = best - span

        def beyond(knee: Evaluation) -> float:
            return knee.metrics["accuracy"] / span[0] - knee.metrics["cost"] / span[1]

        restored = (scaled.knee.metrics["cost"] - offset) / scale
        again = Evaluation(scaled.knee.architecture, {**scaled.knee.metrics, "cost": restored})
        assert beyond(again) == pytest.approx(beyond(front.knee))
        assert all(beyond(front.knee) >= beyond(e) - 1e-9 for e in front)
        assert worst[0] <= front.knee.metrics["accuracy"] <= best[0]


def test_bounds_leave_a_part_and_name_what_they_kept() -> None:
    front = ParetoFront.of(evaluations([(90, 5), (80, 3), (70, 1)]), OBJECTIVES)
    assert front.within(max_cost=4).points.tolist() == [[80, 3], [70, 1]]
    assert front.within().points.tolist() == front.points.tolist()
    with pytest.raises(InfeasibleError, match="accuracy >= 85 where cost <= 4; the nearest has 80"):
        front.within(max_cost=4, min_accuracy=85)
