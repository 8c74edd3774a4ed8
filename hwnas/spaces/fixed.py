"""The space of one architecture, all of whose choices are made: what is trained there is a plain network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hwnas.ops import InputSpec, Operator
from hwnas.spaces.base import Architecture, Choice, NetworkSpace, Slot


class FixedSpace(NetworkSpace):
    """One architecture of another space, with the slots that it has and its values as the only ones."""

    def __init__(self, space: NetworkSpace, arch: Architecture) -> None:
        """SpaceError if the architecture is of another space."""
        self._space, self._arch = space, arch
        names = tuple(space.lower(arch))
        connections = ((),) * len(names) if space.is_chain else space.network(arch).connections
        self.slots = tuple(
            Slot(name, (), tuple(names[s] if isinstance(s, int) else s for s in sources))
            for name, sources in zip(names, connections, strict=True)
        )
        self.size_name = space.size_name
        super().__init__(f"{space.name}-fixed", [Choice(name, (v,)) for name, v in arch.values.items()])

    @property
    def definition(self) -> dict[str, Any]:
        return {"name": self.name, "space": self._space.definition, "architecture": self._arch.values}

    def operator(self, slot: str, values: Mapping[str, Any], precision: str = "fp32") -> Operator | None:
        return self._space.lower(self._arch, precision)[slot]

    def inputs(self, arch: Architecture) -> tuple[InputSpec, ...]:
        return self._space.inputs(self._arch)
