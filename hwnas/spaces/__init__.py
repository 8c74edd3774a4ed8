"""Search spaces: what can be built. No torch in here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from typing import Any

from hwnas.errors import SpaceError, known_names
from hwnas.ops import Operator
from hwnas.spaces.base import (
    Architecture,
    Architectures,
    Choice,
    NetworkSpace,
    OperatorSum,
    SearchSpace,
    Slot,
)
from hwnas.spaces.mobilenetv3 import MobileNetV3Space
from hwnas.spaces.precision import PrecisionSpace
from hwnas.spaces.proxyless import ProxylessSpace
from hwnas.spaces.resnet50 import ResNet50Space

SPACES: dict[str, Callable[..., NetworkSpace]] = {
    "mobilenetv3": MobileNetV3Space,
    "proxyless": ProxylessSpace,
    "resnet50": ResNet50Space,
}


def get_space(name: str, precisions: Sequence[str] | None = None, **parameters: Any) -> NetworkSpace:
    """The space of this name; `parameters` are those of its class. SpaceError for an unknown one.

    With `precisions`, such as ("fp32", "int8"), the precision of a network is one more choice.
    """
    if not isinstance(name, str) or name not in SPACES:
        raise SpaceError(f"unknown space {name!r}; {known_names(name, SPACES)}")
    known = signature(SPACES[name]).parameters
    for parameter in parameters:
        if parameter not in known and not any(p.kind is p.VAR_KEYWORD for p in known.values()):
            raise SpaceError(
                f"space {name!r} has no parameter {parameter!r}; "
                f"{known_names(parameter, [*known, 'precisions'])}"
            )
    try:
        space = SPACES[name](**parameters)
    except TypeError as error:
        raise SpaceError(f"space {name!r}: {error}") from None
    return space if precisions is None else PrecisionSpace(space, precisions)


def space_of(definition: Mapping[str, Any]) -> NetworkSpace:
    """The space that `space.definition` was taken from; SpaceError for anything else."""
    if not isinstance(definition, Mapping) or not isinstance(definition.get("name"), str):
        raise SpaceError(f"a space is its name and parameters, got {definition!r:.80}")
    parameters = dict(definition)
    restriction = parameters.pop("restrict", None)
    space = get_space(parameters.pop("name"), **parameters)
    return space if restriction is None else space.restrict(restriction)


__all__ = [
    "SPACES",
    "Architecture",
    "Architectures",
    "Choice",
    "NetworkSpace",
    "Operator",
    "OperatorSum",
    "PrecisionSpace",
    "SearchSpace",
    "Slot",
    "get_space",
    "space_of",
]
