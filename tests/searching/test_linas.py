"""What LINAS begins with, learns from and picks."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hwnas import Choice, Constraint, Objective, SearchSpace, get_space
from hwnas.searching.objectives import Problem
from hwnas.searching.pareto import hypervolume
from hwnas.searching.strategies import get_strategy
from hwnas.searching.strategies.linas import far_apart, most_hypervolume, value_shares


def test_shares_count_alike_choices_whatever_their_group() -> None:
    choices = [Choice("a", (3, 5), group="x"), Choice("b", (3, 5), group="y"), Choice("c", (1, 2, 4))]
    space = SearchSpace("three", choices)
    one_hot = space.features(np.array([[0, 1, 2], [1, 1, 0]]))[:, :7]
    assert (one_hot @ value_shares(space) == [[0.5, 0.5, 0, 0, 1], [0, 1, 1, 0, 0]]).all()


@given(st.integers(1, 12), st.integers(0, 30), st.integers(0, 2**32 - 1))
def test_rows_far_apart_are_different_and_span_the_values(n: int, rows: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    features, values = rng.integers(0, 3, (rows, 4)).astype(float), rng.integers(0, 9, rows).astype(float)
    picked = far_apart(features, values, n, rng)
    assert len(set(picked)) == len(picked) == min(n, rows)
    if len(picked) >= 2:
        assert {values.min(), values.max()} <= set(values[picked])


def test_of_rows_alike_in_value_the_farthest_is_taken() -> None:
    features = np.array([[0.0], [0.1], [9.0], [1.0]])
    values = np.array([0.0, 1.0, 1.0, 2.0])
    assert sorted(far_apart(features, values, 3, np.random.default_rng(0))) == [0, 2, 3]


def test_the_start_spans_what_a_bound_allows() -> None:
    space = get_space("mobilenetv3")
    accuracy = Objective("accuracy", "max", space.params, expensive=True)
    bound = Constraint("macs", upper=3e8, evaluate=space.macs)
    macs = space.macs(get_strategy("linas", Problem(space, (accuracy,), (bound,))).ask(20))
    smallest = space.macs(np.zeros((1, len(space.choices)), dtype=int))[0]
    assert macs.min() == smallest
    assert 2.7e8 < macs.max() <= 3e8
    assert np.diff(np.sort(macs)).max() < 0.3 * (macs.max() - smallest)


@settings(deadline=None)
@given(
    st.sampled_from([1, 2, 3]).flatmap(
        lambda m: st.tuples(
            arrays(float, st.tuples(st.integers(1, 12), st.just(m)), elements=st.integers(0, 6).map(float)),
            arrays(float, st.tuples(st.integers(0, 5), st.just(m)), elements=st.integers(0, 6).map(float)),
        )
    ),
    st.integers(1, 5),
)
def test_the_most_hypervolume_is_picked_greedily(data: tuple[np.ndarray, np.ndarray], n: int) -> None:
    points, front = data
    low, high = np.min([*points, *front], axis=0), np.max([*points, *front], axis=0)
    reference = low + 1.1 * np.where(high > low, high - low, 1.0)

    def total(rows: list[int]) -> float:
        return hypervolume(np.concatenate([front, points[rows]]), reference)

    picked = most_hypervolume(points, front, n)
    for i, row in enumerate(picked):
        before = picked[:i]
        best = max(total([*before, other]) for other in range(len(points)))
        assert np.isclose(total([*before, row]), best)
        assert best > total(before)
    if len(picked) < n:
        assert np.isclose(max(total([*picked, other]) for other in range(len(points))), total(picked))
