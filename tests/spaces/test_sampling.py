"""Sampling: unchanged draws without a hook, and the three methods for hooks that refuse many draws."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter

import numpy as np
import pytest

from hwnas import Choice, SearchSpace, get_space
from hwnas.errors import SpaceError
from hwnas.spaces.base import Genotypes, Hook
from hwnas.spaces.sampling import EnumeratedSampler, WalkSampler


def product_space(choices: int, values: int, valid: Hook, canonical: Hook | None = None) -> SearchSpace:
    """Return a space of independent choices of equal size."""
    every = [Choice(f"c{i}", tuple(range(values))) for i in range(choices)]
    return SearchSpace("product", every, canonical, valid)


def non_increasing(genotypes: Genotypes) -> np.ndarray:
    return (np.diff(genotypes, axis=1) <= 0).all(axis=1)


def digest(genotypes: Genotypes) -> str:
    return hashlib.sha256(genotypes.astype(np.int64).tobytes()).hexdigest()[:16]


# ---- without a hook -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "of_seed", "of_generator", "with_allowed"),
    [
        (
            "mobilenetv3",
            ["7c30f14bb1769334", "70e3182e8ef87497", "c6c7fdc853d32494"],
            ["2250242597dd5731", "bbabf9a47006d068", 179135128105],
            "b90c0f2dc2e2c2f6",
        ),
        (
            "resnet50",
            ["86b018b991c45a2e", "8a1247db0f81325f", "0229526144ac8e1f"],
            ["52ceeb3bf3399fd2", "3c0cad4833289b5f", 567525227474],
            "21cad4e4c2122969",
        ),
    ],
)
def test_draws_without_a_hook_never_change(
    name: str, of_seed: list[str], of_generator: list[object], with_allowed: str
) -> None:
    space = get_space(name)
    assert [digest(space.sample(n, n).genotypes) for n in (1, 3, 1000)] == of_seed
    generator = np.random.default_rng(7)
    drawn = [digest(space.sample(n, generator).genotypes) for n in (20, 5)]
    assert [*drawn, generator.integers(2**40)] == of_generator
    last_two = [np.arange(count)[-2:] for count in space.cardinalities]
    assert digest(space.sample(50, 3, last_two).genotypes) == with_allowed


# ---- rejection ----------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [0, 1, 7, 400])
def test_a_hook_that_allows_much_gets_the_first_valid_draws(n: int) -> None:
    space = product_space(5, 4, lambda g: g.sum(axis=1) % 3 == 0)
    stream = np.random.default_rng(11).integers(0, 4, (5000, 5))
    assert np.array_equal(space.sample(n, 11).genotypes, stream[stream.sum(axis=1) % 3 == 0][:n])


@pytest.mark.parametrize("seed", range(10))
def test_one_in_150_valid_draws_is_enough(seed: int) -> None:
    space = product_space(6, 8, non_increasing)  # 1716 of 262,144
    archs = space.sample(1000, seed)
    assert len(archs) == 1000
    assert non_increasing(archs.genotypes).all()
    assert len(space.sample(1, seed)) == 1


# ---- enumeration --------------------------------------------------------------------------------


def test_thirty_valid_of_262144_are_all_drawn_equally_often() -> None:
    space = product_space(6, 8, lambda g: (g @ 8 ** np.arange(6)) % 8738 == 100)
    counts = Counter(arch.genotype for arch in space.sample(3000, 0))
    assert len(counts) == 30
    assert 60 < min(counts.values()) <= max(counts.values()) < 140  # 100 each, deviation 10
    assert space.sample(20, 5) == space.sample(20, 5)


def test_enumeration_has_the_probabilities_of_rejection() -> None:
    space = SearchSpace(
        "uneven",
        [Choice("deep", (False, True)), Choice("a", (0, 1, 2), (("deep", (True,)),)), Choice("b", (0, 1, 2))],
        canonical=lambda g: np.where(g == 2, 1, g),
        valid=lambda g: g[:, 2] > 0,
    )
    drawn = [
        space.sample(6000, 1).genotypes,
        EnumeratedSampler(space, None).sample(6000, np.random.default_rng(2)),
    ]
    shares = [Counter(map(tuple, genotypes.tolist())) for genotypes in drawn]
    assert shares[0].keys() == shares[1].keys() == {(0, 0, 1), (1, 0, 1), (1, 1, 1)}
    for key, expected in {(0, 0, 1): 3000, (1, 0, 1): 1000, (1, 1, 1): 2000}.items():
        assert all(abs(counts[key] - expected) < 200 for counts in shares)


def test_a_hook_that_refuses_every_combination_is_an_error() -> None:
    space = product_space(2, 10, lambda g: np.zeros(len(g), dtype=bool))
    with pytest.raises(SpaceError, match="the valid hook refuses all 100 combinations; loosen the hook"):
        space.sample(3, 0)


# ---- walks --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ordered() -> SearchSpace:
    """10^12 combinations of which 293,930 are valid, a share of 3e-7."""
    return product_space(12, 10, non_increasing)


def test_walks_are_close_to_uniform_in_a_space_that_rejection_cannot_sample(ordered: SearchSpace) -> None:
    genotypes = ordered.sample(2000, 0).genotypes
    assert non_increasing(genotypes).all()
    assert len(np.unique(genotypes, axis=0)) > 1500
    generator = np.random.default_rng(0)  # uniform, by stars and bars
    bars = np.array([np.sort(generator.permutation(21)[:12]) - np.arange(12) for _ in range(4000)])[:, ::-1]
    assert np.allclose(genotypes.mean(axis=0), bars.mean(axis=0), atol=0.5)
    assert np.allclose(genotypes.std(axis=0), bars.std(axis=0), atol=0.5)


def test_walks_follow_from_the_seed_and_not_from_earlier_calls(ordered: SearchSpace) -> None:
    ordered.sample(3, 8)
    assert product_space(12, 10, non_increasing).sample(20, 5) == ordered.sample(20, 5)
    assert ordered.sample(20, 6) != ordered.sample(20, 5)


@pytest.mark.parametrize(
    ("choices", "values", "valid"),
    [
        (30, 2, lambda g: g.sum(axis=1) == 2),  # single changes of valid ones are not valid
        (12, 12, lambda g: (np.sort(g, axis=1) == np.arange(12)).all(axis=1)),  # permutations
        (20, 6, lambda g: g.sum(axis=1) >= 96),  # close to the largest
    ],
)
def test_walks_find_what_few_draws_satisfy(
    choices: int, values: int, valid: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hwnas.spaces.sampling.POOL_STEPS", 8)
    space = product_space(choices, values, valid)
    genotypes = space.sample(300, 0).genotypes
    assert valid(genotypes).all()
    assert len(np.unique(genotypes, axis=0)) > 150


def test_each_method_keeps_to_the_allowed_values() -> None:
    narrow = [np.arange(1, 8)] * 5 + [np.array([2, 5])]
    for space, kind in [
        (product_space(6, 8, lambda g: g[:, 0] > 0), None),
        (product_space(6, 8, lambda g: g.sum(axis=1) == 8), EnumeratedSampler),
    ]:
        genotypes = space.sample(100, 0, narrow).genotypes
        assert genotypes[:, :5].min() == 1
        assert set(genotypes[:, 5].tolist()) <= {2, 5}
        assert all(type(sampler) is kind for sampler in space._rare_samplers.values())
    wide = product_space(12, 10, non_increasing)
    genotypes = wide.sample(100, 0, [np.array([0, 3, 9])] * 12).genotypes
    assert set(np.unique(genotypes)) == {0, 3, 9}
    assert non_increasing(genotypes).all()


def test_what_walks_cannot_find_is_an_error_with_the_share() -> None:
    space = product_space(12, 10, lambda g: (g @ 10 ** np.arange(12)) == 123456789012)
    message = (
        r"refuses all of 262,144 random architectures: the valid share is below 0\.001 %.*loosen the valid"
    )
    with pytest.raises(SpaceError, match=message):
        space.sample(1, 0)


def test_very_few_reachable_architectures_are_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    space = product_space(12, 10, lambda g: (g == g[:, :1]).all(axis=1))
    with caplog.at_level(logging.WARNING, "hwnas"):
        WalkSampler(space, None)
    assert "only 10 different architectures were found" in caplog.text
