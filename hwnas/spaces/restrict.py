"""Restricted spaces: some choices of a space keep only some of their values.

    part = space.restrict({"resolution": [160], "stage1.depth": [2, 3]})
    part.to_whole(archs)          # the same networks as architectures of `space`
    part.to_part(archs)           # and back

An architecture of the part has the values, operators and table keys that it has in the whole space. Every
choice stays, one with a single value as a constant. A function of a network space, such as `macs`, and a
supernet also take the architectures of its parts: `SearchSpace.genotypes` translates them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from hwnas.errors import SpaceError
from hwnas.ops import InputSpec, Operator
from hwnas.spaces.base import (
    Architecture,
    Architectures,
    Choice,
    Genotypes,
    NetworkSpace,
    SearchSpace,
    value_list,
)


class RestrictedSpace(SearchSpace):
    """The architectures of a space, `whole`, whose active values are all among those that are kept.

    The canonical hook of the whole space decides which of several equal networks represents them. If a value
    of the representative is not kept, the part has none of them.
    """

    whole: SearchSpace

    def __init__(self, space: SearchSpace, values: Mapping[str, Sequence[Any]]) -> None:
        """Restrict a space; a restriction of a part is one of the whole space.

        Args:
            space: The whole space, or a part of it.
            values: Values to keep by the names of choices; a choice that is not named keeps all.

        Raises:
            SpaceError: if the space has no such choice or value, if a choice keeps no value, or if no
                architecture is left.
        """
        kept = _kept_values(space, values)
        if isinstance(space, RestrictedSpace):
            kept = {**space.restriction, **kept}
            space = space.whole
        self.whole = space
        self.restriction: dict[str, tuple[Any, ...]] = {
            choice.name: kept[choice.name]
            for choice in space.choices
            if len(kept.get(choice.name, choice.values)) < len(choice.values)
        }
        self._tabulate()
        super().__init__(
            space.name,
            [self._choice(choice) for choice in space.choices],
            self._canonical if space.has_hooks else None,
            self._allowed if space.has_hooks else None,
        )
        if self.has_hooks:
            self._check_not_empty()

    @property
    def definition(self) -> dict[str, Any]:
        """The definition of the whole space with the values that are kept."""
        kept = {name: list(values) for name, values in self.restriction.items()}
        return {**self.whole.definition, "restrict": kept}

    @overload
    def to_whole(self, archs: Architecture) -> Architecture: ...
    @overload
    def to_whole(self, archs: Architectures | Sequence[Architecture]) -> Architectures: ...
    def to_whole(self, archs: Any) -> Architecture | Architectures:
        """Return architectures of this part as those of the whole space.

        Args:
            archs: One architecture, or n.

        Returns:
            The architecture, or the n architectures, of the whole space.

        Raises:
            SpaceError: if an architecture is of an unrelated space.
        """
        return _in_space(self.whole, archs)

    @overload
    def to_part(self, archs: Architecture) -> Architecture: ...
    @overload
    def to_part(self, archs: Architectures | Sequence[Architecture]) -> Architectures: ...
    def to_part(self, archs: Any) -> Architecture | Architectures:
        """Return architectures of the whole space as those of this part.

        Args:
            archs: One architecture, or n.

        Returns:
            The architecture, or the n architectures, of this part.

        Raises:
            SpaceError: if an architecture has a value that is not kept, or is of an unrelated space.
        """
        return _in_space(self, archs)

    def in_whole(self, genotypes: Genotypes) -> Genotypes:
        """Return canonical genotypes (n, g) of this part as those of the whole space, (n, g)."""
        return self.whole.canonical(self._kept[np.arange(len(self._kept)), genotypes])

    def from_whole(self, genotypes: Genotypes) -> Genotypes:
        """Return canonical genotypes (n, g) of the whole space as those of this part, (n, g).

        Raises:
            SpaceError: if an active value is not kept.
        """
        own = self._positions(genotypes)
        if (own < 0).any():
            row, column = np.argwhere(own < 0)[0]
            choice = self.whole.choices[column]
            raise SpaceError(
                f"{choice.name} is {choice.values[genotypes[row, column]]!r} in an architecture; this part "
                f"of {self.whole.id} keeps {self.restriction[choice.name]}"
            )
        return own

    # ---- construction ---------------------------------------------------------------------------

    def _tabulate(self) -> None:
        """Positions of the kept values in the whole space, and the inverse; -1 for those not kept."""
        choices = self.whole.choices
        widest = max(len(choice.values) for choice in choices)
        self._kept = np.zeros((len(choices), widest), dtype=np.int64)
        self._inverse = np.full((len(choices), widest), -1, dtype=np.int64)
        for row, choice in enumerate(choices):
            values = self.restriction.get(choice.name, choice.values)
            positions = [choice.values.index(value) for value in values]
            self._kept[row, : len(positions)] = positions
            self._inverse[row, positions] = np.arange(len(positions))

    def _choice(self, choice: Choice) -> Choice:
        requires = tuple(
            (name, tuple(v for v in values if v in self.restriction.get(name, values)))
            for name, values in choice.requires
        )
        return Choice(choice.name, self.restriction.get(choice.name, choice.values), requires, choice.group)

    def _check_not_empty(self) -> None:
        try:
            self.sample(1, 0)
        except SpaceError as error:
            raise SpaceError(
                f"no architecture of {self.whole.id} is left with {self.restriction}; keep more values "
                f"({error})"
            ) from None

    # ---- hooks ----------------------------------------------------------------------------------

    def _positions(self, genotypes: Genotypes) -> Genotypes:
        """Genotypes of the whole space in this part's positions; -1 where an active value is not kept."""
        own = self._inverse[np.arange(len(self._inverse)), genotypes]
        return np.where(self.whole.active(genotypes), own, 0)

    def _canonical(self, genotypes: Genotypes) -> Genotypes:
        own = self._positions(self.in_whole(genotypes))
        return np.where((own >= 0).all(axis=1, keepdims=True), own, genotypes)  # the others are not allowed

    def _allowed(self, genotypes: Genotypes) -> NDArray[np.bool_]:
        whole = self.in_whole(genotypes)
        return np.asarray(self.whole.valid(whole) & (self._positions(whole) >= 0).all(axis=1))


class RestrictedNetworkSpace(RestrictedSpace, NetworkSpace):
    """A restricted space whose architectures have the operators and inputs that they have in the whole space.

    It has all slots of the whole space. A slot may be skipped in every architecture.
    """

    whole: NetworkSpace

    def __init__(self, space: NetworkSpace, values: Mapping[str, Sequence[Any]]) -> None:
        """Restrict a network space; arguments and errors are those of `RestrictedSpace`."""
        super().__init__(space, values)
        self.slots, self.size_name = self.whole.slots, self.whole.size_name

    def inputs(self, arch: Architecture) -> tuple[InputSpec, ...]:
        """Return the inputs of an architecture, which are those in the whole space."""
        return self.whole.inputs(self.to_whole(arch))

    def operator(self, slot: str, values: Mapping[str, Any], precision: str = "fp32") -> Operator | None:
        """Return the operator that the whole space has in a slot for these values."""
        return self.whole.operator(slot, values, precision)

    def rank(self, choice: str, value: Any) -> Any:
        """Order the values of a choice as the whole space does."""
        return self.whole.rank(choice, value)


def _kept_values(space: SearchSpace, values: Any) -> dict[str, tuple[Any, ...]]:
    """The kept values of each named choice in the order of the choice, checked."""
    if not isinstance(values, Mapping):
        raise SpaceError(
            "a restriction maps names of choices to lists of values, such as {'depth': [2, 3]}, got "
            f"{values!r:.80}"
        )
    result = {}
    for name, given in values.items():
        choice = space.choices[space.index(name)]
        listed = value_list(f"restriction of {name}: values", given)
        kept = []
        for value in listed:
            equal = [
                v for v in choice.values if v == value and isinstance(v, bool) == isinstance(value, bool)
            ]
            if not equal:
                raise SpaceError(
                    f"restriction of {name}: {value!r} is not one of its values {choice.values}; leave it out"
                )
            kept += equal
        if not kept:
            raise SpaceError(f"restriction of {name} keeps no value; give at least one of {choice.values}")
        result[name] = tuple(value for value in choice.values if value in kept)
    return result


def _in_space(space: SearchSpace, archs: Any) -> Architecture | Architectures:
    """Architectures of a space with the same whole as those of `space`."""
    if isinstance(archs, Architecture):
        return Architectures(space, space.genotypes([archs]))[0]
    if isinstance(archs, np.ndarray):
        raise SpaceError(
            "expected architectures, got an array; make them by space.architectures(genotypes), where "
            "space is the one that the genotypes are of"
        )
    return Architectures(space, space.genotypes(archs).copy())
