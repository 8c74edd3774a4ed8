"""Search spaces as data: conditions, canonical form, counting, sampling, features."""

from __future__ import annotations

import itertools
import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwnas.errors import SpaceError
from hwnas.spaces import Architecture, Choice, SearchSpace, get_space


def depth_space() -> SearchSpace:
    """Depth 1–3, a kernel for each layer, and a width that is always there."""
    return SearchSpace(
        "toy",
        [
            Choice("depth", (1, 2, 3)),
            Choice("layer1.kernel", (3, 5), group="kernel"),
            Choice("layer2.kernel", (3, 5), (("depth", (2, 3)),), "kernel"),
            Choice("layer3.kernel", (3, 5), (("depth", (3,)),), "kernel"),
            Choice("layer3.se", (False, True), (("layer3.kernel", (5,)),)),
            Choice("width", ("narrow", "wide")),
        ],
    )


@st.composite
def spaces(draw: st.DrawFn) -> SearchSpace:
    """Spaces of two to six choices with conditions on earlier ones, listed in any order."""
    choices: list[Choice] = []
    for i in range(draw(st.integers(2, 6))):
        values = tuple(range(draw(st.integers(1, 3))))
        others = draw(st.lists(st.sampled_from(choices), max_size=2, unique=True)) if choices else []
        requires = [
            (other.name, tuple(draw(st.sets(st.sampled_from(other.values), min_size=1)))) for other in others
        ]
        group = draw(st.sampled_from([None, "g"]))
        choices.append(Choice(f"c{i}", values, tuple(requires), group))
    return SearchSpace("random", draw(st.permutations(choices)))


def brute_force(space: SearchSpace) -> set[tuple[int, ...]]:
    """Canonical genotypes by the definition, one at a time."""
    found = set()
    by_name = {choice.name: i for i, choice in enumerate(space.choices)}

    def is_active(i: int, genotype: tuple[int, ...]) -> bool:
        return all(
            is_active(by_name[name], genotype)
            and space.choices[by_name[name]].values[genotype[by_name[name]]] in values
            for name, values in space.choices[i].requires
        )

    for genotype in itertools.product(*(range(len(c.values)) for c in space.choices)):
        found.add(tuple(g if is_active(i, genotype) else 0 for i, g in enumerate(genotype)))
    return found


@given(spaces())
def test_canonical_count_and_enumeration_are_those_of_brute_force(space: SearchSpace) -> None:
    # Two genotypes are equal networks when active choices and their values are the same; index 0 of an
    # inactive choice never hides a difference, since activity follows from active choices alone.
    expected = brute_force(space)
    assert {arch.genotype for arch in space.enumerate()} == expected
    assert space.size == len(expected)


@given(spaces(), st.integers(0, 2**32))
def test_canonical_is_idempotent_and_round_trips_through_values(space: SearchSpace, seed: int) -> None:
    raw = np.random.default_rng(seed).integers(0, space.cardinalities, (20, len(space.choices)))
    canonical = space.canonical(raw)
    assert np.array_equal(space.canonical(canonical), canonical)
    assert np.array_equal(space.active(raw), space.active(canonical))
    for arch in space.architectures(raw):
        assert space.architecture(arch.values) == arch
        assert len({arch, space.architecture(arch.values)}) == 1


@given(spaces(), st.integers(0, 2**32))
def test_features_are_one_hot_of_active_choices_and_sums_over_groups(space: SearchSpace, seed: int) -> None:
    archs = space.sample(10, seed)
    features = space.features(archs)
    assert features.shape == (10, len(space.feature_names))
    grouped = [c for c in space.choices if c.group == "g"]
    for arch, row in zip(archs, features, strict=True):
        named = dict(zip(space.feature_names, row, strict=True))
        for choice in space.choices:
            for value in choice.values:
                assert named[f"{choice.name}={value}"] == (arch.values.get(choice.name) == value)
        for value in {v for c in grouped for v in c.values}:
            assert named[f"g={value}"] == sum(arch.values.get(c.name) == value for c in grouped)


def test_known_count() -> None:
    assert depth_space().size == 2 * (2 + 2 * 2 + 2 * 2 * (1 + 2))


def test_once_for_all_count_does_not_enumerate() -> None:
    stage = [Choice("depth", (2, 3, 4))]
    for layer in range(1, 5):
        need = (("depth", tuple(d for d in (2, 3, 4) if d >= layer)),)
        stage += [Choice(f"layer{layer}.{f}", (0, 1, 2), need) for f in ("kernel", "expand")]
    five = [
        Choice(f"s{s}.{c.name}", c.values, tuple((f"s{s}.{n}", v) for n, v in c.requires))
        for s in range(5)
        for c in stage
    ]
    assert SearchSpace("ofa", five).size == (9**2 + 9**3 + 9**4) ** 5


def test_sampling_is_uniform_over_values_and_deterministic() -> None:
    space = depth_space()
    archs = space.sample(6000, rng=1)
    assert archs == space.sample(6000, rng=np.random.default_rng(1))
    depth = archs.column("depth")
    assert all(abs(np.mean(depth == d) - 1 / 3) < 0.03 for d in (1, 2, 3))
    deep = archs[depth == 3]
    assert abs(np.mean(deep.column("layer3.kernel") == 5) - 0.5) < 0.04
    assert archs != space.sample(6000, rng=2)


def test_canonical_hook_merges_and_valid_hook_forbids() -> None:
    space = SearchSpace(
        "hooked",
        [Choice("a", (0, 1, 2)), Choice("b", (0, 1, 2))],
        canonical=lambda g: np.sort(g, axis=1),
        valid=lambda g: g.sum(axis=1) > 0,
    )
    assert space.size == 6 - 1
    assert {a.genotype for a in space.sample(300, 0)} == {a.genotype for a in space.enumerate()}
    assert space.architecture({"a": 2, "b": 1}) == space.architecture({"a": 1, "b": 2})
    with pytest.raises(SpaceError, match=r"does not allow \{'a': 0, 'b': 0\}"):
        space.architecture({"a": 0, "b": 0})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"depth": 4}, r"depth cannot be 4; give one of \(1, 2, 3\)"),
        ({"depth": True, "layer1.kernel": 3, "width": "wide"}, "depth cannot be True"),
        ({"depth": 1, "width": "wide"}, r"layer1\.kernel is missing; give one of \(3, 5\)"),
        ({"deph": 1}, "has no choice 'deph'"),
    ],
)
def test_wrong_values_are_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        depth_space().architecture(values)


def test_values_of_inactive_choices_are_ignored() -> None:
    space = depth_space()
    arch = space.architecture({"depth": 1, "layer1.kernel": 5, "layer3.kernel": "nonsense", "width": "wide"})
    assert arch.values == {"depth": 1, "layer1.kernel": 5, "width": "wide"}


def test_wrong_genotypes_are_refused() -> None:
    space = depth_space()
    with pytest.raises(SpaceError, match=r"integers of shape \(n, 6\)"):
        space.canonical(np.zeros((2, 5), dtype=int))
    with pytest.raises(SpaceError, match=r"integers of shape \(n, 6\)"):
        space.canonical(np.zeros((2, 6)))
    with pytest.raises(SpaceError, match="depth has 3 values, index 3"):
        space.canonical(np.full((1, 6), 3))
    other = SearchSpace("other", [Choice("a", (1, 2))])
    with pytest.raises(SpaceError, match="these architectures are of space other"):
        space.features(other.sample(2, 0))
    with pytest.raises(SpaceError, match="expected a sequence"):
        space.features(space.sample(1, 0)[0])
    assert space.features([]).shape == (0, len(space.feature_names))


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ([], "has no choices"),
        ([Choice("a", (1,)), Choice("a", (2,))], "two choices have the name 'a'"),
        ([Choice("a", (1, 2), (("b", (1,)),))], "requires 'b', which does not exist"),
        ([Choice("a", (1, 2)), Choice("b", (1,), (("a", (3,)),))], "requires a to be 3"),
        ([Choice("a", (1,), (("b", (1,)),)), Choice("b", (1,), (("a", (1,)),))], "require each other"),
    ],
)
def test_wrong_spaces_are_refused(choices: list[Choice], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        SearchSpace("wrong", choices)


@pytest.mark.parametrize("values", [(), (1, 1), ([1],), (1, float("nan")), "ab", 5, None, {3: "x"}])
def test_wrong_choices_are_refused(values: Any) -> None:
    with pytest.raises(SpaceError, match="choice 'a'"):
        Choice("a", values)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([3, 5]), (3, 5)),
        (np.array([False, True]), (False, True)),
        (range(2, 5), (2, 3, 4)),
        ({"b", "c", "a"}, ("a", "b", "c")),
        ({16, 8, 2.5}, (2.5, 8, 16)),
    ],
)
def test_values_are_any_list_of_numbers_or_texts(values: Any, expected: tuple[object, ...]) -> None:
    choice = Choice("a", values)
    assert choice.values == expected
    assert {type(value) for value in choice.values} <= {int, float, bool, str}
    assert SearchSpace("s", [choice]) == SearchSpace("s", [Choice("a", expected)])


@pytest.mark.parametrize(
    "requires",
    [
        [("arch", ("cnn",))],
        [("arch", "cnn")],
        (["arch", ["cnn"]],),
        {"arch": ("cnn",)},
        {"arch": "cnn"},
        [("arch", {"cnn"})],
    ],
)
def test_a_condition_is_written_as_pairs_or_a_dict(requires: Any) -> None:
    space = SearchSpace("s", [Choice("arch", ("cnn", "vit")), Choice("kernel", (3, 5), requires)])
    assert space.choices[1].requires == (("arch", ("cnn",)),)
    assert space.size == 3
    assert space.architecture({"arch": "vit"}).values == {"arch": "vit"}


@pytest.mark.parametrize(
    "requires", ["arch", ("arch", ("cnn",)), ["ab"], [("arch",)], [(5, ("cnn",))], 5, None, {5: 3}]
)
def test_a_wrong_condition_is_refused_with_an_example(requires: Any) -> None:
    with pytest.raises(SpaceError, match=r"choice 'kernel': requires is .*\[\('depth', \(3, 4\)\)\].*got"):
        Choice("kernel", (3, 5), requires)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Choice(5, (1, 2)), "a choice's name is a text that is not empty, got 5"),
        (lambda: Choice("a", (1, 2), group=3), "choice 'a': group is a text or None, got 3"),
        (lambda: SearchSpace("s", Choice("a", (1, 2))), r"choices is a list of hwnas\.Choice.*got Choice"),
        (lambda: SearchSpace("s", {"a": (1, 2)}), r"choices is a list of hwnas\.Choice.*got \{'a'"),
        (lambda: SearchSpace(5, [Choice("a", (1, 2))]), "a space's name is a text, got 5"),
        (
            lambda: SearchSpace("s", [Choice("a", (1, 2))], valid=True),
            r"valid is a function of genotypes \(n, g\), got True",
        ),
    ],
)
def test_wrong_arguments_of_choices_and_spaces_are_named(make: Callable[[], object], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        make()


def test_an_unknown_parameter_of_a_space_is_named_with_the_known_ones() -> None:
    message = (
        r"space 'mobilenetv3' has no parameter 'resolution'; known: width, resolutions, .*'resolutions'\?"
    )
    with pytest.raises(SpaceError, match=message):
        get_space("mobilenetv3", resolution=[32])
    with pytest.raises(SpaceError, match="has no parameter 'self'"):
        get_space("resnet50", self=3)
    with pytest.raises(SpaceError, match=r"unknown space \['resnet50'\]; known: mobilenetv3"):
        get_space(["resnet50"])  # type: ignore[arg-type]


def test_sequence_behaviour() -> None:
    space = depth_space()
    archs = space.sample(5, 3)
    assert len(archs) == 5
    assert list(archs) == [archs[i] for i in range(5)]
    assert archs[-1] == list(archs)[-1]
    assert list(archs[1:3]) == list(archs)[1:3]
    assert isinstance(archs[0], Architecture)
    assert np.array_equal(space.genotypes(list(archs)), archs.genotypes)
    with pytest.raises(ValueError, match="read-only"):
        archs.genotypes[0, 0] = 1
    with pytest.raises(SpaceError, match="no choice 'nope'"):
        archs.column("nope")


def test_pickles_and_ids_are_stable() -> None:
    space = depth_space()
    arch = space.sample(1, 0)[0]
    assert pickle.loads(pickle.dumps(arch)) == arch
    assert depth_space().id == space.id
    assert depth_space() == space
    assert SearchSpace("toy", space.choices[:3]).id != space.id
    assert arch.id == space.architecture(arch.values).id
    ids = {a.id for a in space.enumerate()}
    assert len(ids) == space.size


def test_enumeration_has_a_limit() -> None:
    space = SearchSpace("big", [Choice(f"c{i}", (0, 1)) for i in range(30)])
    assert space.size == 2**30
    with pytest.raises(SpaceError, match="at most 1048576"):
        space.enumerate()


@settings(max_examples=20)
@given(st.integers(1, 12))
def test_independent_choices_multiply(n: int) -> None:
    space = SearchSpace("flat", [Choice(f"c{i}", (0, 1, 2)) for i in range(n)])
    assert space.size == math.prod([3] * n)
