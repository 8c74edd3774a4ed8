"""The networks of a space, each in one of several precisions: that is one more choice, `precision`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hwnas.errors import SpaceError
from hwnas.ops import InputSpec, Operator
from hwnas.spaces.base import Architecture, Choice, NetworkSpace, Slot
from hwnas.spaces.checks import is_list

CHOICE = "precision"
# Precisions that networks can be built, timed and exported in, the one with the most bits first.
SEARCHED = ("fp32", "int8")


class PrecisionSpace(NetworkSpace):
    """Another space with the choice `precision`, whose value is the precision of all operators of a network.

    Weights and what they compute in training are those of the other space.
    """

    def __init__(self, space: NetworkSpace, precisions: Sequence[str]) -> None:
        """SpaceError for precisions that are none, or given twice, and for a space with hooks."""
        if not is_list(precisions) or not set(precisions) <= set(SEARCHED) or len(precisions) < 1:
            raise SpaceError(f"precisions are some of {', '.join(SEARCHED)}, got {precisions!r}")
        if len(set(precisions)) < len(precisions):
            raise SpaceError(f"precisions {list(precisions)} has one twice")
        if space.has_hooks:
            raise SpaceError(f"space {space.name!r} has hooks of its own choices; it takes no precisions")
        self.space = space
        self.precisions = tuple(precisions)
        self.size_name = space.size_name
        self.slots = tuple(Slot(slot.name, (CHOICE, *slot.choices), slot.inputs) for slot in space.slots)
        super().__init__(space.name, [Choice(CHOICE, self.precisions), *space.choices])

    @property
    def definition(self) -> dict[str, Any]:
        """The keyword arguments that make this space again, with its name."""
        return {**self.space.definition, "precisions": list(self.precisions)}

    def operator(self, slot: str, values: Mapping[str, Any], precision: str = "fp32") -> Operator | None:
        """As in the other space, in the precision that is chosen, whatever `precision` says."""
        return self.space.operator(slot, values, values[CHOICE])

    def rank(self, choice: str, value: Any) -> Any:
        """Order precisions by their bits: fp32 is the largest. Other choices are ordered as in `space`."""
        return -SEARCHED.index(value) if choice == CHOICE else self.space.rank(choice, value)

    def inputs(self, arch: Architecture) -> tuple[InputSpec, ...]:
        values = {name: value for name, value in arch.values.items() if name != CHOICE}
        return self.space.inputs(self.space.architecture(values))
