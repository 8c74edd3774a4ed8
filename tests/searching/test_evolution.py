import moocore
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwnas.searching.feasible import row_keys
from hwnas.searching.strategies.evolution import best_first, evolve, losses, offspring
from hwnas.searching.strategies.linas import added_hypervolume, most_hypervolume
from tests.searching.problems import accuracy, cost, objectives, toy_space


def test_losses_flip_what_is_maximised() -> None:
    metrics = {"cost": np.array([3.0]), "accuracy": np.array([80.0])}
    assert losses(objectives(), metrics).tolist() == [[-80.0, 3.0]]


def test_feasible_ones_come_first_then_fronts_then_crowding() -> None:
    values = np.array([[0, 4], [4, 0], [2, 2], [1.9, 2.1], [5, 5], [0, 0], [-1, -1]], dtype=float)
    violation = np.array([0, 0, 0, 0, 0, 0.2, 0.1])
    order = best_first(values, violation, 7).tolist()
    assert set(order[:2]) == {0, 1}
    assert order[4:] == [4, 6, 5]
    assert best_first(values, violation, 2).tolist() == order[:2]


@given(st.integers(0, 1000))
def test_children_are_canonical_and_valid(seed: int) -> None:
    space = toy_space()
    children = offspring(space, space.sample(7, seed).genotypes, 30, np.random.default_rng(seed))
    assert (space.canonical(children) == children).all()


def test_a_choice_active_in_one_parent_alone_is_inherited_from_it() -> None:
    space = toy_space(5)
    deep = space.genotypes([space.architecture({"depth": 5, **{f"width{i}": 3 for i in range(5)}})])
    flat = space.genotypes([space.architecture({"depth": 1, "width0": 3})])
    parents = np.concatenate([deep, flat])
    children = space.architectures(offspring(space, parents, 2000, np.random.default_rng(0)))
    widths = np.concatenate([[v for n, v in arch.values.items() if n != "depth"] for arch in children])
    assert (widths == 3).mean() > 0.66


def test_the_inner_search_finds_the_front_of_a_known_problem() -> None:
    space = toy_space()

    def score(genotypes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        archs = space.architectures(genotypes)
        metrics = {"accuracy": accuracy(archs), "cost": cost(archs)}
        return losses(objectives(), metrics), np.maximum(metrics["cost"] - 9, 0)

    start = space.sample(20, 0).genotypes
    found, values, violation = evolve(space, score, start, 40, 15, np.random.default_rng(0))
    assert len(set(row_keys(found))) == len(found) == len(values) == len(violation)
    every, forbidden = score(space.enumerate().genotypes)
    best = moocore.hypervolume(every[forbidden == 0], ref=[-40, 10])
    assert moocore.hypervolume(values[violation == 0], ref=[-40, 10]) > 0.98 * best


@pytest.mark.parametrize("m", [1, 2, 3])
def test_added_hypervolume_is_the_difference_of_two(m: int) -> None:
    rng = np.random.default_rng(m)
    points, front, reference = rng.random((25, m)) * 1.2, rng.random((6, m)), np.full(m, 1.0)
    gains = added_hypervolume(points, front, reference)
    base = moocore.hypervolume(front, ref=reference)
    expected = [moocore.hypervolume(np.concatenate([front, p[None]]), ref=reference) - base for p in points]
    assert gains == pytest.approx(expected, abs=1e-12)
    alone = [moocore.hypervolume(p[None], ref=reference) for p in points]
    assert added_hypervolume(points, front[:0], reference) == pytest.approx(alone)


def test_a_batch_is_picked_for_what_it_adds_together() -> None:
    front = np.array([[0.0, 1.0], [1.0, 0.0]])
    points = np.array([[0.4, 0.4], [0.41, 0.41], [0.1, 0.7], [2.0, 2.0]])
    assert most_hypervolume(points, front, 3) == [0, 2]
    assert most_hypervolume(points[:0], front[:0], 3) == []
    assert most_hypervolume(points[:0], front, 3) == []
