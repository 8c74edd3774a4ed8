from dataclasses import replace

import numpy as np
import pytest

from hwnas import Architectures, Choice, Constraint, SearchSpace, get_space, search
from hwnas.errors import InfeasibleError
from hwnas.searching.feasible import (
    Candidates,
    check_feasible,
    extreme,
    neighbours,
    new_rows,
    row_keys,
    second_neighbours,
)
from hwnas.searching.objectives import Objective, Problem
from tests.searching.problems import at_most, cost, objectives, toy_space

LARGE = get_space("mobilenetv3")


def large(*constraints: Constraint) -> Problem:
    return Problem(LARGE, (Objective("macs", "min", LARGE.macs),), constraints)


def test_new_rows_keep_the_first_of_each_in_order() -> None:
    rows = np.array([[1, 0], [2, 0], [1, 0], [3, 0]])
    assert new_rows(rows, set(row_keys(rows[1:2]))).tolist() == [[1, 0], [3, 0]]
    assert len(set(row_keys(np.array([[0, 300], [300, 0], [0, 70_000]])))) == 3


def test_neighbours_are_canonical_and_differ_in_one_choice() -> None:
    space = toy_space(3)
    arch = space.architecture({"depth": 2, "width0": 1, "width1": 3})
    near = space.architectures(neighbours(space, space.genotypes([arch])))
    assert len(near) == 2 + 2 + 2
    assert arch not in list(near)
    assert len(set(near)) == len(near)


def test_the_extremes_are_exact_in_a_small_space_and_reached_in_a_large_one() -> None:
    assert extreme(toy_space(), cost)[1] == 1
    assert extreme(toy_space(), cost, "max")[1] == 15
    smallest, macs = extreme(LARGE, LARGE.macs)
    assert all(v == 2 for name, v in smallest.values.items() if name.endswith("depth"))
    assert {v for name, v in smallest.values.items() if not name.endswith("depth")} == {3}
    largest, most = extreme(LARGE, LARGE.macs, "max")
    assert macs == LARGE.macs([smallest])[0] < LARGE.macs([largest])[0] == most
    assert all(v == 4 for name, v in largest.values.items() if name.endswith("depth"))


def test_unreachable_bounds_are_refused_with_the_reachable_value() -> None:
    with pytest.raises(InfeasibleError, match=r"cost <= 0\.5: the smallest reachable cost is 1;"):
        check_feasible(Problem(toy_space(), tuple(objectives()), tuple(at_most(0.5))))
    with pytest.raises(InfeasibleError, match=r"cost >= 16: the largest reachable cost is 15;"):
        check_feasible(Problem(toy_space(), tuple(objectives()), (Constraint("cost", lower=16),)))
    _, macs = extreme(LARGE, LARGE.macs)
    with pytest.raises(InfeasibleError, match=f"smallest reachable macs is {macs:.0f};"):
        check_feasible(large(Constraint("macs", upper=macs - 1)))
    check_feasible(large(Constraint("macs", upper=macs)))


def test_bounds_that_only_together_cannot_be_met_are_refused() -> None:
    both = (
        Constraint("cost", lower=10),
        Constraint("depth", upper=2, evaluate=lambda archs: [a.values["depth"] for a in archs]),
    )
    with pytest.raises(InfeasibleError, match="together"):
        check_feasible(Problem(toy_space(), tuple(objectives()), both))


def test_drawing_ends_when_a_space_is_exhausted() -> None:
    candidates = Candidates(Problem(toy_space(3), tuple(objectives()), tuple(at_most(5))))
    drawn = candidates.draw(1000, np.random.default_rng(0), set())
    archs = toy_space(3).enumerate()
    assert len(drawn) == (cost(archs) <= 5).sum()
    assert len(candidates.draw(1, np.random.default_rng(0), set(row_keys(drawn)))) == 0


def test_drawing_finds_the_rare_feasible_corner_of_a_large_space() -> None:
    _, macs = extreme(LARGE, LARGE.macs)
    candidates = Candidates(large(Constraint("macs", upper=1.02 * macs)))
    drawn = candidates.draw(30, np.random.default_rng(0), set())
    assert len(set(row_keys(drawn))) == len(drawn) == 30
    assert (LARGE.macs(drawn) <= 1.02 * macs).all()
    only = Candidates(large(Constraint("macs", upper=macs)))
    assert len(only.draw(30, np.random.default_rng(0), set())) == 1


@pytest.mark.parametrize("seed", [0, 1])
def test_a_strict_valid_hook_is_searched_by_the_default_strategy(seed: int) -> None:
    space = SearchSpace(
        "ordered",
        [Choice(f"width{i}", tuple(range(8))) for i in range(6)],
        valid=lambda genotypes: (np.diff(genotypes, axis=1) <= 0).all(axis=1),  # 1716 of 262,144
    )
    wanted = [
        Objective("total", "max", lambda archs: archs.genotypes.sum(axis=1), expensive=True),
        Objective("first", "min", lambda archs: archs.genotypes[:, 0]),
    ]
    result = search(space, wanted, evaluations=24, seed=seed, predictor="ridge")
    genotypes = space.genotypes([e.architecture for e in result.evaluations])
    assert len(np.unique(genotypes, axis=0)) == 24
    assert (np.diff(genotypes, axis=1) <= 0).all()


def test_a_feasible_architecture_that_no_descent_leads_to_is_found() -> None:
    space = SearchSpace("bits", [Choice(f"c{i}", (0, 1)) for i in range(15)])

    def scattered(archs: Architectures) -> np.ndarray:
        return (space.genotypes(archs) @ 2 ** np.arange(15)) % 16_301 - 7

    bound = Constraint("remainder", upper=0, lower=0, evaluate=scattered)
    problem = Problem(space, (Objective("cost", "min", scattered),), (bound,))
    check_feasible(problem)
    assert len(Candidates(problem).hidden) == 3
    with pytest.raises(InfeasibleError, match="remainder >= -8 and remainder <= -8"):
        check_feasible(replace(problem, constraints=(replace(bound, upper=-8, lower=-8),)))


def test_second_neighbours_differ_in_two_choices() -> None:
    space = toy_space(3)
    arch = space.architecture({"depth": 3, "width0": 1, "width1": 3, "width2": 2})
    genotype = space.genotypes([arch])
    near = np.concatenate(list(second_neighbours(space, genotype)))
    differ = (near != genotype).sum(axis=1)
    full = near[:, 0] == genotype[0, 0]
    assert (differ[full] == 2).all()
    assert full.sum() == 3 * 2 * 2
    assert np.array_equal(space.canonical(near), near)
