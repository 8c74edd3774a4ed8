"""Search spaces as data: choices, the conditions under which they are active, and what follows from both.

A genotype is an array of integers, one a choice: the index of the chosen value. Choices whose conditions
do not hold are inactive and carry index 0, so equal networks are equal genotypes. Everything here is
vectorised over n architectures and none of it needs torch.
"""

from __future__ import annotations

import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING, Any, ClassVar, cast, overload

import numpy as np
from numpy.typing import NDArray

from hwnas.errors import SpaceError
from hwnas.ops import InputSpec, Network, Operator
from hwnas.ops.network import INPUT, Source
from hwnas.spaces.sampling import (
    ENUMERATION_LIMIT,
    EnumeratedSampler,
    WalkSampler,
    rare_sampler,
    reject,
)

if TYPE_CHECKING:
    from hwnas.spaces.restrict import RestrictedNetworkSpace, RestrictedSpace

Rng = int | np.random.Generator
Genotypes = NDArray[np.int64]
Hook = Callable[[Genotypes], NDArray[Any]]

SIZE_NAMES = ("resolution", "length")
SUMMED_AT_ONCE = 8192  # architectures; what they need stays in the caches
BLOCK_SIZE = 2**14  # combinations that are enumerated at once


@dataclass(frozen=True)
class Choice:
    """One searchable decision.

    `requires` holds (name of another choice, values of it) pairs: the choice is active only while every
    one of those choices is active itself and has one of the values. A dict, and a single value instead of a
    list, mean the same. Choices of one `group` are alike (the kernels of one stage, say): features also count
    each value over the group.
    """

    name: str
    values: tuple[Any, ...]
    requires: tuple[tuple[str, tuple[Any, ...]], ...] = ()
    group: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise SpaceError(f"a choice's name is a text that is not empty, got {self.name!r}")
        where = f"choice {self.name!r}"
        if not isinstance(self.group, str | None):
            raise SpaceError(f"{where}: group is a text or None, got {self.group!r}")
        object.__setattr__(self, "values", value_list(f"{where}: values", self.values))
        object.__setattr__(self, "requires", _requirements(where, self.requires))
        if not self.values:
            raise SpaceError(f"{where} has no values; give at least one")
        for value in self.values:
            if not isinstance(value, (str, int, float, bool)) or value != value:
                raise SpaceError(f"{where}: value {value!r} is not a string, number or boolean")
        if len(set(self.values)) != len(self.values):
            raise SpaceError(f"choice {self.name!r} has a value twice: {self.values}")


def value_list(where: str, values: Any) -> tuple[Any, ...]:
    """Return values as a tuple, a set sorted, NumPy scalars as Python's; SpaceError if they are no list."""
    if isinstance(values, str | Mapping) or not isinstance(values, Iterable):
        raise SpaceError(f"{where} is a list, such as (3, 5), got {values!r:.80}")
    if isinstance(values, Set):  # the order of a set of strings changes from process to process
        numbers = sorted(value for value in values if isinstance(value, int | float))
        values = [*numbers, *sorted((v for v in values if not isinstance(v, int | float)), key=str)]
    return tuple(value.item() if isinstance(value, np.generic) else value for value in values)


def _requirements(where: str, requires: Any) -> tuple[tuple[str, tuple[Any, ...]], ...]:
    """Return the (name, values) pairs of a choice's conditions; SpaceError for anything else."""
    pairs = list(requires.items()) if isinstance(requires, Mapping) else requires
    if isinstance(pairs, str) or not isinstance(pairs, Iterable):
        pairs = [()]
    pairs = list(pairs)
    if not all(isinstance(p, list | tuple) and len(p) == 2 and isinstance(p[0], str) for p in pairs):
        raise SpaceError(
            f"{where}: requires is a list of (choice name, values) pairs, such as [('depth', (3, 4))], or a "
            f"dict, such as {{'depth': (3, 4)}}, got {requires!r:.80}"
        )
    single = (str, int, float, bool, np.generic)
    return tuple(
        (name, value_list(f"{where}: requires {name}", (values,) if isinstance(values, single) else values))
        for name, values in pairs
    )


@dataclass(frozen=True)
class Architecture:
    """One point of a search space: canonical, hashable, equal if and only if the networks are equal."""

    space: str
    genotype: tuple[int, ...]
    origin: SearchSpace = field(repr=False, compare=False)

    @property
    def values(self) -> dict[str, Any]:
        """The chosen values by choice name, active choices only."""
        active = self.origin.active(np.array([self.genotype]))[0]
        return {
            choice.name: choice.values[index]
            for choice, index, on in zip(self.origin.choices, self.genotype, active, strict=True)
            if on
        }

    @cached_property
    def id(self) -> str:
        """Twelve hexadecimal digits that name the architecture within its space."""
        return _digest({"space": self.space, "values": self.values})[:12]

    def __str__(self) -> str:
        return json.dumps(self.values)


class Architectures(Sequence[Architecture]):
    """An immutable sequence of architectures of one space, backed by one (n, g) array of genotypes."""

    def __init__(self, space: SearchSpace, genotypes: Genotypes) -> None:
        """`genotypes` are taken as canonical: make one by `space.architectures`, not by hand."""
        self.origin = space
        self.genotypes = genotypes
        self.genotypes.setflags(write=False)
        self._places: NDArray[np.int64] | None = None  # what OperatorSum looks up, where they are few

    @property
    def space(self) -> str:
        """The space's name and digest."""
        return self.origin.id

    def column(self, name: str) -> NDArray[Any]:
        """The values of one choice, shape (n,); inactive ones show the choice's first value."""
        index = self.origin.index(name)
        return np.array(self.origin.choices[index].values)[self.genotypes[:, index]]

    def __len__(self) -> int:
        return len(self.genotypes)

    @overload
    def __getitem__(self, item: int) -> Architecture: ...
    @overload
    def __getitem__(self, item: slice | NDArray[Any]) -> Architectures: ...
    def __getitem__(self, item: int | slice | NDArray[Any]) -> Architecture | Architectures:
        if isinstance(item, (slice, np.ndarray)):
            return Architectures(self.origin, self.genotypes[item])
        return Architecture(self.space, tuple(self.genotypes[item].tolist()), self.origin)

    def __iter__(self) -> Iterator[Architecture]:
        for genotype in self.genotypes.tolist():
            yield Architecture(self.space, tuple(genotype), self.origin)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Architectures)
            and self.space == other.space
            and np.array_equal(self.genotypes, other.genotypes)
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Architectures({self.space}, n={len(self)})"


class SearchSpace:
    """What can be chosen. Concrete: a list of choices alone makes a searchable space.

    Two optional hooks, both vectorised, are for what conditions cannot say. `canonical` maps genotypes
    (n, g) to the representative of each one's class of equal networks, (n, g). `valid` says which
    genotypes are allowed, (n,) booleans; it sees canonical ones only. To train a supernet, it must allow the
    largest values of all choices together, and the smallest.
    """

    whole: SearchSpace | None = None  # the space that this one is a part of; see `restrict`

    def __init__(
        self,
        name: str,
        choices: Sequence[Choice],
        canonical: Hook | None = None,
        valid: Hook | None = None,
    ) -> None:
        if not isinstance(name, str):
            raise SpaceError(f"a space's name is a text, got {name!r}")
        listed = list(choices) if isinstance(choices, Iterable) else [None]
        if not all(isinstance(choice, Choice) for choice in listed):
            raise SpaceError(
                f"space {name!r}: choices is a list of hwnas.Choice, such as [Choice('depth', (2, 3))], "
                f"got {choices!r:.80}"
            )
        for hook, function in (("canonical", canonical), ("valid", valid)):
            if function is not None and not callable(function):
                raise SpaceError(
                    f"space {name!r}: {hook} is a function of genotypes (n, g), got {function!r:.80}"
                )
        self.name = name
        self.choices: tuple[Choice, ...] = tuple(listed)
        self._canonical_hook = canonical
        self._valid_hook = valid
        if not self.choices:
            raise SpaceError(f"space {name!r} has no choices; give at least one")
        self._index = {choice.name: i for i, choice in enumerate(self.choices)}
        if len(self._index) != len(self.choices):
            names = [choice.name for choice in self.choices]
            twice = sorted({n for n in names if names.count(n) > 1})
            raise SpaceError(f"space {name!r}: two choices have the name {twice[0]!r}; names must differ")
        self.cardinalities = np.array([len(choice.values) for choice in self.choices])
        self._conditions = self._resolve_conditions()

    # ---- identity -------------------------------------------------------------------------------

    @property
    def definition(self) -> dict[str, Any]:
        """Plain data that says all about the space; the digest in `id` is taken over it."""
        return {
            "name": self.name,
            "choices": [
                {"name": c.name, "values": c.values, "requires": c.requires, "group": c.group}
                for c in self.choices
            ],
        }

    @cached_property
    def id(self) -> str:
        """Name and digest, such as ``macro-1a2b3c4d``: spaces are the same when their ids are equal."""
        return id_of(self.definition)

    def index(self, name: str) -> int:
        """The position of a choice; SpaceError names it if there is none."""
        if name not in self._index:
            raise SpaceError(f"space {self.name!r} has no choice {name!r}; it has {', '.join(self._index)}")
        return self._index[name]

    # ---- architectures --------------------------------------------------------------------------

    def architecture(self, values: Mapping[str, Any]) -> Architecture:
        """The architecture with these values by choice name.

        Values of inactive choices are ignored; a missing active one, an unknown name or a value that a
        choice does not have is a SpaceError that names it.
        """
        for name in values:
            self.index(name)
        genotype = np.zeros(len(self.choices), dtype=np.int64)
        active = np.zeros(len(self.choices), dtype=bool)
        for i in self._order:
            choice = self.choices[i]
            active[i] = all(active[j] and allowed[genotype[j]] for j, allowed in self._conditions[i])
            if not active[i]:
                continue
            if choice.name not in values:
                raise SpaceError(f"{choice.name} is missing; give one of {choice.values}")
            value = values[choice.name]
            matches = [
                k
                for k, v in enumerate(choice.values)
                if v == value and isinstance(v, bool) == isinstance(value, bool)
            ]
            if not matches:
                raise SpaceError(f"{choice.name} cannot be {value!r}; give one of {choice.values}")
            genotype[i] = matches[0]
        return self.architectures(genotype[None])[0]

    def architectures(self, genotypes: Any) -> Architectures:
        """The architectures of an (n, g) integer array, made canonical; SpaceError if any is not valid."""
        canonical = self.canonical(genotypes)
        valid = self.valid(canonical)
        if not valid.all():
            bad = Architecture(self.id, tuple(canonical[int(np.argmin(valid))].tolist()), self)
            raise SpaceError(f"space {self.name!r} does not allow {bad.values}")
        return Architectures(self, canonical)

    def genotypes(self, archs: Any) -> Genotypes:
        """(n, g) genotypes of Architectures, of a sequence of Architecture, or of an integer array.

        Architectures of a part of this space, or of a space that this is a part of, are translated.
        """
        if isinstance(archs, Architectures):
            return self._translated(archs.origin, archs.genotypes)
        if isinstance(archs, Architecture):
            raise SpaceError("expected a sequence of architectures, got one; write [arch]")
        if not isinstance(archs, np.ndarray):
            archs = list(archs)
            if archs and isinstance(archs[0], Architecture):
                archs = [
                    arch.genotype if arch.space == self.id else self._translated_genotype(arch)
                    for arch in archs
                ]
        array = np.asarray(archs)
        if array.size == 0:
            return np.zeros((0, len(self.choices)), dtype=np.int64)
        if array.ndim != 2 or array.shape[1] != len(self.choices) or array.dtype.kind not in "iu":
            raise SpaceError(
                f"genotypes of space {self.name!r} are integers of shape (n, {len(self.choices)}), "
                f"got {array.dtype} of shape {array.shape}"
            )
        array = array.astype(np.int64, copy=False)
        wrong = (array < 0) | (array >= self.cardinalities)
        if wrong.any():
            row, column = np.argwhere(wrong)[0]
            choice = self.choices[column]
            raise SpaceError(
                f"{choice.name} has {len(choice.values)} values, "
                f"index {array[row, column]} is not one of them"
            )
        return array

    def _translated(self, origin: SearchSpace, genotypes: Genotypes) -> Genotypes:
        """Return canonical genotypes (n, g) of a space that has the same whole, (n, g) in this one."""
        if origin.id == self.id:
            return genotypes
        if (origin.whole or origin).id != (self.whole or self).id:
            raise SpaceError(f"these architectures are of space {origin.id}, not of {self.id}")
        return self.from_whole(origin.in_whole(genotypes))

    def _translated_genotype(self, arch: Architecture) -> tuple[int, ...]:
        return tuple(self._translated(arch.origin, np.array([arch.genotype]))[0].tolist())

    def in_whole(self, genotypes: Genotypes) -> Genotypes:
        """Return canonical genotypes as those of the space that this is a part of: themselves if of none."""
        return genotypes

    def from_whole(self, genotypes: Genotypes) -> Genotypes:
        """Return canonical genotypes of the space that this is a part of as its own; see `in_whole`."""
        return genotypes

    def restrict(self, values: Mapping[str, Sequence[Any]]) -> RestrictedSpace:
        """Return the part of the space in which choices keep only some of their values.

        Args:
            values: Values to keep by the names of choices; a choice that is not named keeps all.

        Returns:
            The part; its `to_whole` and `to_part` translate architectures.

        Raises:
            SpaceError: if there is no such choice or value, a choice keeps no value, or no architecture is
                left.
        """
        from hwnas.spaces.restrict import RestrictedSpace

        return RestrictedSpace(self, values)

    @property
    def has_hooks(self) -> bool:
        """Whether more than the choices and their conditions says what an architecture is."""
        return self._canonical_hook is not None or self._valid_hook is not None

    # ---- canonical form -------------------------------------------------------------------------

    def active(self, archs: Any) -> NDArray[np.bool_]:
        """Which choices are active, (n, g)."""
        return self._active(self.genotypes(archs))

    def _active(self, genotypes: Genotypes) -> NDArray[np.bool_]:
        """`active` of what `genotypes` has checked."""
        active = np.ones(genotypes.shape, dtype=bool)
        for dependent, required, allowed in self._levels:
            holds = allowed[np.arange(len(required)), genotypes[:, required]]
            active[:, dependent] &= active[:, required] & holds
        return active

    @cached_property
    def _levels(self) -> list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]]:
        """The conditions in groups that are looked up at once, what they rest on in earlier groups.

        Of each group the choices that depend, those that they require, and which values of these will do
        (conditions, values).
        """
        widest = int(self.cardinalities.max())
        ready = np.zeros(len(self.choices), dtype=int)  # the first group after all conditions of a choice
        levels: dict[int, list[tuple[int, int, NDArray[np.bool_]]]] = {}
        for i in self._order:
            for j, allowed in self._conditions[i]:
                level = int(max(ready[i], ready[j]))
                padded = np.pad(allowed, (0, widest - len(allowed)))
                levels.setdefault(level, []).append((i, j, padded))
                ready[i] = level + 1
        return [
            (np.array(dependent), np.array(required), np.array(allowed))
            for dependent, required, allowed in (zip(*levels[i], strict=True) for i in sorted(levels))
        ]

    def canonical(self, archs: Any) -> Genotypes:
        """The genotypes with inactive choices at index 0, then through the canonical hook; idempotent."""
        genotypes = self.genotypes(archs)
        genotypes = np.where(self._active(genotypes), genotypes, 0)
        if self._canonical_hook is None or len(genotypes) == 0:
            return genotypes
        hooked = self.genotypes(np.asarray(self._canonical_hook(genotypes)))
        if hooked.shape != genotypes.shape:
            raise SpaceError(
                f"the canonical hook of space {self.name!r} returned shape {hooked.shape}, "
                f"expected {genotypes.shape}"
            )
        return np.where(self._active(hooked), hooked, 0)

    def valid(self, archs: Any) -> NDArray[np.bool_]:
        """Which architectures the valid hook allows, (n,); all of them without one."""
        genotypes = self.genotypes(archs)
        if self._valid_hook is None or len(genotypes) == 0:
            return np.ones(len(genotypes), dtype=bool)
        valid = np.asarray(self._valid_hook(genotypes), dtype=bool)
        if valid.shape != (len(genotypes),):
            raise SpaceError(
                f"the valid hook of space {self.name!r} returned shape {valid.shape}, "
                f"expected ({len(genotypes)},)"
            )
        return valid

    # ---- drawing and counting -------------------------------------------------------------------

    def sample(self, n: int, rng: Rng, among: Sequence[NDArray[np.int64]] | None = None) -> Architectures:
        """n architectures, active choices uniform and independent; repeats are possible.

        `among` says by choice which positions of its values are drawn from, instead of all.

        With a valid hook only valid architectures are drawn. If fewer than about 1 in 200 draws are valid,
        the space is enumerated, up to 2^20 combinations; a larger one is sampled by random walks between
        valid architectures, which are approximately uniform.

        Raises:
            SpaceError: if no valid architecture is found; the message states the share.
        """
        generator = np.random.default_rng(rng)
        genotypes = reject(self, n, generator, among)
        if len(genotypes) < n:
            key = None if among is None else tuple(tuple(indices.tolist()) for indices in among)
            if key not in self._rare_samplers:
                self._rare_samplers[key] = rare_sampler(self, among)
            rare = self._rare_samplers[key].sample(n - len(genotypes), generator)
            genotypes = np.concatenate([genotypes, rare])
        return Architectures(self, genotypes)

    @cached_property
    def _rare_samplers(self) -> dict[Any, EnumeratedSampler | WalkSampler]:
        """Samplers for a valid hook that refuses nearly everything, by the values that may be drawn."""
        return {}

    @cached_property
    def size(self) -> int:
        """The number of different architectures, exact.

        With hooks the space is enumerated, which is refused (SpaceError) above 2^20 combinations.
        """
        if self._canonical_hook is None and self._valid_hook is None:
            return self.combinations
        return len(self.enumerate())

    def enumerate(self, limit: int = ENUMERATION_LIMIT) -> Architectures:
        """Every architecture once, in the order of genotypes; SpaceError above `limit` combinations."""
        if self.combinations > limit:
            raise SpaceError(
                f"space {self.name!r} has {self.combinations:.3g} combinations; "
                f"at most {limit} can be enumerated"
            )
        genotypes = np.unique(self.canonical(np.concatenate(list(self.combination_blocks()))), axis=0)
        return Architectures(self, genotypes[self.valid(genotypes)])

    @cached_property
    def combinations(self) -> int:
        """The number of combinations of active choices, before the hooks merge or refuse any."""
        return self._count(frozenset(range(len(self.choices))), {})

    def combination_blocks(self) -> Iterator[Genotypes]:
        """Yield every combination once, in blocks (n, g); inactive choices are at index 0."""
        unfinished = [(0, np.zeros((1, len(self.choices)), dtype=np.int64))]
        while unfinished:
            decided, genotypes = unfinished.pop()
            if decided == len(self.choices):
                yield genotypes
                continue
            i = self._order[decided]
            on = self._active(genotypes)[:, i]
            extended = np.repeat(genotypes[on], self.cardinalities[i], axis=0)
            extended[:, i] = np.tile(np.arange(self.cardinalities[i]), int(on.sum()))
            genotypes = np.concatenate([genotypes[~on], extended])
            parts = -(-len(genotypes) // BLOCK_SIZE)
            unfinished += [(decided + 1, part) for part in np.array_split(genotypes, parts)]

    def _count(self, choices: frozenset[int], fixed: dict[int, int]) -> int:
        """Assignments of `choices`, conditions on `fixed` ones decided: product over independent parts."""
        total, left = 1, set(choices)
        while left:
            part = self._connected(next(iter(left)), choices)
            left -= part
            total *= self._count_part(part, fixed)
        return total

    def _count_part(self, part: frozenset[int], fixed: dict[int, int]) -> int:
        root = min(part, key=self._order.index)
        decided = all(fixed.get(j, -1) >= 0 and allowed[fixed[j]] for j, allowed in self._conditions[root])
        values = range(self.cardinalities[root]) if decided else [-1]  # -1: inactive
        if len(part) == 1:
            return len(values)
        return sum(self._count(part - {root}, {**fixed, root: value}) for value in values)

    def _connected(self, start: int, choices: frozenset[int]) -> frozenset[int]:
        seen, stack = {start}, [start]
        while stack:
            i = stack.pop()
            for j in self._linked[i] & choices - seen:
                seen.add(j)
                stack.append(j)
        return frozenset(seen)

    # ---- features -------------------------------------------------------------------------------

    @cached_property
    def feature_names(self) -> tuple[str, ...]:
        """One name a column of `features`."""
        names = [f"{c.name}={value}" for c in self.choices for value in c.values]
        return (*names, *(f"{group}={value}" for group, value in self._group_columns))

    def features(self, archs: Any) -> NDArray[np.float64]:
        """(n, d): one-hot values, zero where inactive, then how often each value occurs in each group."""
        genotypes = self.genotypes(archs)
        values, groups = self._group_matrix.shape
        features = np.zeros((len(genotypes), values + groups))
        rows = np.arange(len(genotypes))[:, None]
        features[rows, genotypes + self._first_columns] = self._active(genotypes)
        np.matmul(features[:, :values], self._group_matrix, out=features[:, values:])
        return features

    @cached_property
    def _first_columns(self) -> NDArray[np.int64]:
        """(g,) the column of the first value of each choice."""
        return np.asarray(np.cumsum(self.cardinalities) - self.cardinalities)

    @cached_property
    def _group_columns(self) -> tuple[tuple[str, Any], ...]:
        pairs = [(c.group, value) for c in self.choices if c.group is not None for value in c.values]
        return tuple(dict.fromkeys(pairs))

    @cached_property
    def _group_matrix(self) -> NDArray[np.float64]:
        position = {pair: i for i, pair in enumerate(self._group_columns)}
        matrix = np.zeros((int(self.cardinalities.sum()), len(position)))
        rows = [(c.group, value) for c in self.choices for value in c.values]
        for row, (group, value) in enumerate(rows):
            if group is not None:
                matrix[row, position[group, value]] = 1.0
        return matrix

    # ---- conditions -----------------------------------------------------------------------------

    def _resolve_conditions(self) -> tuple[tuple[tuple[int, NDArray[np.bool_]], ...], ...]:
        """For each choice its (index of the required choice, which of its values will do) pairs."""
        resolved = []
        for choice in self.choices:
            pairs = []
            for name, values in choice.requires:
                if name not in self._index:
                    raise SpaceError(f"choice {choice.name!r} requires {name!r}, which does not exist")
                required = self.choices[self._index[name]]
                for value in values:
                    if value not in required.values:
                        raise SpaceError(
                            f"choice {choice.name!r} requires {name} to be {value!r}, "
                            f"which is not one of {required.values}"
                        )
                pairs.append((self._index[name], np.array([v in values for v in required.values])))
            resolved.append(tuple(pairs))
        graph = {i: [j for j, _ in pairs] for i, pairs in enumerate(resolved)}
        try:
            self._order = list(TopologicalSorter(graph).static_order())
        except CycleError as error:
            names = " → ".join(self.choices[i].name for i in error.args[1])
            raise SpaceError(
                f"space {self.name!r}: choices require each other in a circle: {names}"
            ) from None
        linked: dict[int, set[int]] = {i: set(others) for i, others in graph.items()}
        for i, others in graph.items():
            for j in others:
                linked[j].add(i)
        self._linked = {i: frozenset(neighbours) for i, neighbours in linked.items()}
        return tuple(resolved)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SearchSpace) and self.id == other.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.id}, {len(self.choices)} choices)"


@dataclass(frozen=True)
class Slot:
    """A place in the network: the operator there depends on these choices and no others.

    `inputs` are the inputs of the operator: names of inputs of the network or of earlier slots. Without any
    it reads the result of the slot before, and in the first slot the input of the network called "input". A
    slot that is skipped passes on its first input.
    """

    name: str
    choices: tuple[str, ...]
    inputs: tuple[str, ...] = ()


class NetworkSpace(SearchSpace, ABC):
    """A space whose architectures can be built, timed and exported. Abstract: one subclass a file.

    A network is a graph of slots, and a chain unless slots say otherwise. A subclass gives `slots` and
    `operator`, and `inputs` where the network has other inputs than the one called "input". `operators` is
    the only lowering, from which MACs, parameters, table keys, static networks and ONNX graphs come.

    `size_name` is the name of the size of the inputs, one of `SIZE_NAMES`: "resolution" in pixels, or
    "length" in tokens. Latency tables have a calibration for each size.
    """

    slots: tuple[Slot, ...]
    size_name: str = "resolution"

    @abstractmethod
    def operator(self, slot: str, values: Mapping[str, Any], precision: str = "fp32") -> Operator | None:
        """The operator in a slot, given at least the values of the slot's choices; None if it is skipped."""

    def restrict(self, values: Mapping[str, Sequence[Any]]) -> RestrictedNetworkSpace:
        """Return a part of the space, as `SearchSpace.restrict`, that can be built, timed and exported."""
        from hwnas.spaces.restrict import RestrictedNetworkSpace

        return RestrictedNetworkSpace(self, values)

    def inputs(self, arch: Architecture) -> tuple[InputSpec, ...]:
        """Name, shape, data type and range of each input of an architecture, in order.

        By default this is the one input of the operators that read "input". A space whose slots read other
        inputs overrides it, and declares the same names for all architectures.
        """
        lowered = self.lower(arch)
        for operator, sources in zip(lowered.values(), self._connections(lowered), strict=True):
            for spec, source in zip(operator.inputs, sources, strict=False):
                if source == INPUT:
                    return (InputSpec(INPUT, spec.shape, spec.dtype, spec.high),)
        return ()

    def network(self, arch: Architecture, precision: str = "fp32") -> Network:
        """The operators of an architecture with their connections and the inputs.

        Args:
            arch: An architecture of this space.
            precision: Precision of the operators where that is no choice of the space.

        Returns:
            The network.

        Raises:
            SpaceError: If a slot reads what does not exist, or the operators do not fit together.
        """
        return self.connect(self.lower(arch, precision), self.inputs(arch))

    def connect(self, lowered: Mapping[str, Operator], inputs: tuple[InputSpec, ...]) -> Network:
        """Connect the operators of an architecture, which `lower` gives, and its inputs.

        Args:
            lowered: The operators by slot.
            inputs: The inputs.

        Returns:
            The network.

        Raises:
            SpaceError: If a slot reads what does not exist, or the operators do not fit together.
        """
        self._check_slots([spec.name for spec in inputs])
        return Network(inputs, tuple(lowered.values()), self._connections(lowered))

    def _connections(self, lowered: Mapping[str, Operator]) -> tuple[tuple[Source, ...], ...]:
        """The sources of the inputs of each operator, where skipped slots pass on their first input."""
        connections: list[tuple[Source, ...]] = []
        values: dict[str, Source] = {}  # the source of the result of each slot
        last: Source = INPUT
        for slot in self.slots:
            sources = tuple(values.get(name, name) for name in slot.inputs) or (last,)
            last = sources[0]
            if slot.name in lowered:
                connections.append(sources)
                last = len(connections) - 1
            values[slot.name] = last
        if connections and last != len(connections) - 1:
            raise SpaceError(
                f"the last slot, {self.slots[-1].name}, is skipped and passes on a value that is not the "
                "result of the last operator; make this value the result of the slot before"
            )
        return tuple(connections)

    def _check_slots(self, inputs: Sequence[str]) -> None:
        """Raise SpaceError if a slot reads what does not exist, or has the name of an input."""
        known = list(inputs)
        for slot in self.slots:
            unknown = [name for name in slot.inputs if name not in known]
            if unknown:
                raise SpaceError(
                    f"slot {slot.name!r} reads {unknown[0]!r}, which is neither an earlier slot nor an input "
                    f"({', '.join(inputs) or 'none'}); declare inputs by {type(self).__name__}.inputs"
                )
            if slot.name in inputs:
                raise SpaceError(f"slot {slot.name!r} has the name of an input; rename one of them")
            known.append(slot.name)

    @property
    def is_chain(self) -> bool:
        """Whether each slot reads the slot before and nothing else, by its declaration."""
        return not any(slot.inputs for slot in self.slots)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of the largest input; SpaceError if the networks take no images."""
        held = [op for op in self.slot_operators(self.slots[0]).values() if op is not None]
        return max(map(self._image_shape, held), key=lambda shape: shape[1])

    def _image_shape(self, first: Operator) -> tuple[int, int, int]:
        if len(first.in_shape) != 3:
            raise SpaceError(
                f"the networks of {self.id} take no images: {first.key} reads an input of shape "
                f"{first.in_shape}, not (channels, height, width)"
            )
        channels, height, width = first.in_shape
        return channels, height, width

    def lower(self, arch: Architecture, precision: str = "fp32") -> dict[str, Operator]:
        """The operators of an architecture by slot, in the order in which they run."""
        genotype = arch.genotype if arch.space == self.id else self._translated_genotype(arch)
        values = {c.name: c.values[i] for c, i in zip(self.choices, genotype, strict=True)}
        found = {slot.name: self.operator(slot.name, values, precision) for slot in self.slots}
        return {name: operator for name, operator in found.items() if operator is not None}

    def operators(self, arch: Architecture, precision: str = "fp32") -> list[Operator]:
        """The operators of an architecture in the order in which they run."""
        return list(self.lower(arch, precision).values())

    def precision(self, arch: Architecture) -> str:
        """The precision of an architecture's operators: "fp32" unless that is a choice of the space."""
        return self.operators(arch)[0].precision

    def resolution(self, arch: Architecture) -> int:
        """The height (and width) that images are resized to; SpaceError if the networks take no images."""
        return self._image_shape(self.operators(arch)[0])[1]

    def input_size(self, arch: Architecture) -> int:
        """The size of the inputs of an architecture, called `size_name`; see `size_of_input`."""
        return size_of_input(self.operators(arch)[0])

    def slot_operators(self, slot: Slot, precision: str = "fp32") -> dict[tuple[int, ...], Operator | None]:
        """What a slot holds for each combination of value indices of its choices."""
        choices = [self.choices[self.index(name)] for name in slot.choices]
        return {
            index: self.operator(
                slot.name, {c.name: c.values[i] for c, i in zip(choices, index, strict=True)}, precision
            )
            for index in np.ndindex(*(len(c.values) for c in choices))
        }

    def all_operators(self, precision: str = "fp32") -> tuple[Operator, ...]:
        """Every operator that some architecture asks for, each once."""
        found: dict[Operator, None] = {}
        for slot in self.slots:
            found.update(dict.fromkeys(op for op in self.slot_operators(slot, precision).values() if op))
        return tuple(found)

    def largest(self) -> Architecture:
        """Return the architecture with the largest value of every choice.

        Raises:
            SpaceError: if the space does not allow it.
        """
        return self._end(max)

    def smallest(self) -> Architecture:
        """Return the architecture with the smallest value of every choice.

        Raises:
            SpaceError: if the space does not allow it.
        """
        return self._end(min)

    def rank(self, choice: str, value: Any) -> Any:
        """Return the key by which the values of a choice are ordered from the smallest to the largest.

        Args:
            choice: Name of the choice.
            value: One of its values.

        Returns:
            The value itself, unless a subclass orders the values of this choice in another way.
        """
        return value

    def _end(self, extreme: Callable[..., Any]) -> Architecture:
        """Return the architecture whose values are the `min` or the `max` of each choice."""
        genotype = []
        for choice in self.choices:
            ranks = [self.rank(choice.name, value) for value in choice.values]
            genotype.append(ranks.index(extreme(ranks)))
        end = Architectures(self, self.canonical(np.array([genotype])))[0]
        if not self.valid([end])[0]:
            raise SpaceError(
                f"the valid hook of space {self.name!r} refuses {end.values}, an end of the space, and "
                "training rests on both ends; allow it, or leave out the values that no network may have"
            )
        return end

    def macs(self, archs: Any) -> NDArray[np.float64]:
        """Multiply-accumulates of one input, (n,)."""
        return self._macs(archs)

    def params(self, archs: Any) -> NDArray[np.float64]:
        """Trainable parameters, (n,)."""
        return self._params(archs)

    def model_bytes(self, archs: Any, precision: str = "fp32") -> NDArray[np.float64]:
        """Of weights and biases as they are shipped, (n,), in a precision where that is no choice."""
        if precision not in self._model_bytes:
            self._model_bytes[precision] = OperatorSum(self, lambda op: op.weight_bytes, precision)
        return self._model_bytes[precision](archs)

    def peak_activation_bytes(self, archs: Any, precision: str = "fp32") -> NDArray[np.float64]:
        """The most that is held at once for one input, operator after operator, (n,); see `Operator`.

        Where networks are no chains, results that wait for a later operator are included.
        """
        if not self.is_chain:
            found = Architectures(self, self.genotypes(archs))
            return np.array([float(self.network(arch, precision).activation_bytes) for arch in found])
        if precision not in self._activation_bytes:
            self._activation_bytes[precision] = OperatorMax(self, lambda op: op.activation_bytes, precision)
        return self._activation_bytes[precision](archs)

    @cached_property
    def _model_bytes(self) -> dict[str, OperatorSum]:
        return {}

    @cached_property
    def _activation_bytes(self) -> dict[str, OperatorSum]:
        return {}

    @cached_property
    def _macs(self) -> OperatorSum:
        return OperatorSum(self, lambda op: op.macs)

    @cached_property
    def _params(self) -> OperatorSum:
        return OperatorSum(self, lambda op: op.params)


class OperatorSum:
    """A value of each operator, summed over the operators of n architectures by array look-ups.

    The value of every slot is tabulated once over the slot's choices; `space.operators` is still the only
    lowering, so the sum is the same as a loop over it.
    """

    _joined: ClassVar[Callable[..., Any]] = staticmethod(np.sum)

    def __init__(
        self, space: NetworkSpace, value: Callable[[Operator], float], precision: str = "fp32"
    ) -> None:
        self.space = space
        tables: list[list[float]] = []
        starts: list[int] = []
        self._strides = np.zeros((len(space.choices), len(space.slots)))  # as floats, for BLAS; exact
        for i, slot in enumerate(space.slots):
            held = space.slot_operators(slot, precision)
            columns = np.array([space.index(name) for name in slot.choices], dtype=np.int64)
            sizes = space.cardinalities[columns].tolist()
            self._strides[columns, i] = [math.prod(sizes[j + 1 :]) for j in range(len(sizes))]
            starts.append(sum(len(table) for table in tables))
            tables.append([0.0 if op is None else float(value(op)) for op in held.values()])
        self._starts, self._values = np.array(starts), np.concatenate(tables)

    def __call__(self, archs: Any) -> NDArray[np.float64]:
        """(n,) sums, of a subclass what it joins the values to."""
        genotypes = self.space.genotypes(archs)
        own = isinstance(archs, Architectures) and genotypes is archs.genotypes  # not those of a part
        if own and len(genotypes) <= SUMMED_AT_ONCE:
            if archs._places is None:
                archs._places = self._places(genotypes)
            return np.asarray(self._joined(self._values[archs._places], axis=1))
        total = np.zeros(len(genotypes))
        for start in range(0, len(genotypes), SUMMED_AT_ONCE):
            part = slice(start, start + SUMMED_AT_ONCE)
            total[part] = self._joined(self._values[self._places(genotypes[part])], axis=1)
        return total

    def _places(self, genotypes: Genotypes) -> NDArray[np.int64]:
        """(n, slots) where the value of each slot's operator stands; the same for every sum of a space."""
        return np.asarray((genotypes.astype(np.float64) @ self._strides).astype(np.int64) + self._starts)


class OperatorMax(OperatorSum):
    """The largest value, which is not negative, of the operators of n architectures, in the same way."""

    _joined: ClassVar[Callable[..., Any]] = staticmethod(np.max)


def size_of_input(operator: Operator) -> int:
    """Return the size of the inputs of a network from the operator in its first slot.

    Args:
        operator: An operator whose first input is one of the network.

    Returns:
        The first axis after the channels: the height of (channels, height, width), the length of (length,).
    """
    return operator.in_shape[min(1, len(operator.in_shape) - 1)]


def id_of(definition: Mapping[str, Any]) -> str:
    """The id of the space that a definition is of."""
    return f"{definition['name']}-{_digest(definition)[:8]}"


def _digest(data: object) -> str:
    text = json.dumps(cast(Any, data), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
