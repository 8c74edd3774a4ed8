"""What is optimised, what is required, and what was found out about an architecture.

Objectives keep their direction everywhere; signs flip in one function, `strategies.evolution.losses`.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from hwnas.errors import HwnasError, SearchError
from hwnas.spaces import Architecture, SearchSpace
from hwnas.text import one_line

Values = NDArray[np.float64]
Evaluate = Callable[[Any], Any]  # a sequence of n architectures → n numbers, n >= 1

DIRECTIONS = ("max", "min")
T = TypeVar("T")


def elsewhere(archs: Any) -> Any:
    """Stands for the evaluate function of an objective whose values a SearchSession is told."""
    raise SearchError(
        "an objective without an evaluate function is for hwnas.SearchSession, which is told its values; "
        "hwnas.search needs the function"
    )


@dataclass(frozen=True)
class Objective:
    """A metric to maximise or minimise.

    `evaluate` maps a sequence of n architectures to n numbers. A cheap one (MACs, a table's latency) is
    computed exactly, for thousands of architectures at a time, wherever the search needs it. An expensive
    one is evaluated truly for the architectures that the search asks for, one at a time, and stored.
    An expensive one has no function where its values are evaluated elsewhere and told, see SearchSession.
    `source` is a digest of everything that the values depend on: searches of one store share the values
    of a source. Without one they belong to the search alone.
    """

    name: str
    direction: Literal["max", "min"]
    evaluate: Evaluate = elsewhere
    expensive: bool = False
    source: str = ""

    def __post_init__(self) -> None:
        _check_name(self.name)
        if self.direction not in DIRECTIONS:
            raise SearchError(f"objective {self.name!r}: direction is 'max' or 'min', got {self.direction!r}")
        if not callable(self.evaluate):
            raise SearchError(f"objective {self.name!r}: evaluate is a function, got {self.evaluate!r}")
        if self.evaluate is elsewhere and not self.expensive:
            raise SearchError(f"objective {self.name!r}: give it an evaluate function, or expensive=True")


@dataclass(frozen=True)
class Constraint:
    """Inclusive bounds on an objective, by its name, or on a further, cheap metric that `evaluate` gives."""

    name: str
    upper: float | None = None
    lower: float | None = None
    evaluate: Evaluate | None = None

    def __post_init__(self) -> None:
        _check_name(self.name)
        bounds: list[Any] = [bound for bound in (self.lower, self.upper) if bound is not None]
        if not bounds or not all(isinstance(b, Real) and math.isfinite(b) for b in bounds):
            raise SearchError(
                f"constraint {self.name!r}: give a finite upper or lower bound, "
                f"got lower={self.lower!r}, upper={self.upper!r}"
            )
        for side in ("lower", "upper"):
            bound = getattr(self, side)
            object.__setattr__(self, side, None if bound is None else float(bound))
        if len(bounds) == 2 and bounds[0] > bounds[1]:
            raise SearchError(
                f"constraint {self.name!r}: lower={self.lower} is above upper={self.upper}; "
                "nothing lies between them"
            )

    def violation(self, values: Any) -> Values:
        """By how much each value misses the bounds, relative to the bound; 0 exactly where it does not."""
        values = np.asarray(values, dtype=float)
        total = np.zeros(values.shape)
        if self.upper is not None:
            total += np.maximum(values - self.upper, 0) / (abs(self.upper) or 1.0)
        if self.lower is not None:
            total += np.maximum(self.lower - values, 0) / (abs(self.lower) or 1.0)
        return total

    def __str__(self) -> str:
        parts = [f"{self.name} >= {self.lower:.10g}"] if self.lower is not None else []
        parts += [f"{self.name} <= {self.upper:.10g}"] if self.upper is not None else []
        return " and ".join(parts)


@dataclass(frozen=True, slots=True)  # there may be a million of them
class Evaluation:
    """What was truly found out about an architecture: every metric by name, or why one could not be had."""

    architecture: Architecture
    metrics: dict[str, float] = field(default_factory=dict)
    status: Literal["ok", "failed"] = "ok"
    error: str | None = None


@dataclass(frozen=True)
class Problem:
    """A space with objectives and constraints, checked: SearchError says what does not fit together."""

    space: SearchSpace
    objectives: tuple[Objective, ...]
    constraints: tuple[Constraint, ...] = ()

    def __post_init__(self) -> None:
        if not self.objectives:
            raise SearchError("a search needs at least one objective")
        names = [objective.name for objective in self.objectives]
        own = [constraint.name for constraint in self.constraints if constraint.evaluate is not None]
        for name in (*names, *own):
            if (names + own).count(name) > 1:
                raise SearchError(f"two metrics have the name {name!r}; names must differ")
        for constraint in self.constraints:
            if constraint.name not in (*names, *own):
                raise SearchError(
                    f"constraint on {constraint.name!r}, which is not a metric of this search "
                    f"({', '.join((*names, *own))}); give the constraint its own evaluate function"
                )

    @property
    def expensive(self) -> tuple[Objective, ...]:
        return tuple(objective for objective in self.objectives if objective.expensive)

    @property
    def exact(self) -> dict[str, Evaluate]:
        """The functions of the cheap metrics, by name: objectives, then those of constraints alone."""
        functions = {o.name: o.evaluate for o in self.objectives if not o.expensive}
        functions.update({c.name: c.evaluate for c in self.constraints if c.evaluate is not None})
        return functions

    def exact_metrics(self, archs: Any) -> dict[str, Values]:
        """The cheap metrics of n architectures (or (n, g) genotypes), each (n,); SearchError for a NaN."""
        if isinstance(archs, np.ndarray):
            archs = self.space.architectures(archs)
        return {name: checked_values(name, evaluate, archs) for name, evaluate in self.exact.items()}

    def violation(self, metrics: Mapping[str, Values]) -> Values:
        """The sum of all violations of constraints on these metrics, (n,); 0 exactly where feasible."""
        total = np.zeros(len(next(iter(metrics.values()))) if metrics else 0)
        for constraint in self.constraints:
            if constraint.name in metrics:
                total = total + constraint.violation(metrics[constraint.name])
        return total


def _check_name(name: object) -> None:
    if not isinstance(name, str) or not name.strip():
        raise SearchError(f"a metric's name is a text, got {name!r}")


def free_name(name: str, metrics: Collection[str]) -> str:
    """A name for a column beside those of metrics: with an underscore behind it where one has the name."""
    return free_name(f"{name}_", metrics) if name in metrics else name


def listed(name: str, values: Any, kind: type[T]) -> tuple[T, ...]:
    """An argument that is a list of one kind of object; SearchError for anything else."""
    found = tuple(values) if isinstance(values, list | tuple) else (None,)
    if not all(isinstance(value, kind) for value in found):
        raise SearchError(f"{name} is a list of hwnas.{kind.__name__}, got {values!r:.80}")
    return found


def whole(name: str, value: Any, least: int) -> int:
    """A whole number of any integer type as int; SearchError for anything else and for less than `least`."""
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if number < least:
        raise SearchError(f"{name} is a whole number of at least {least}, got {value!r}")
    return number


def real_values(name: str, raw: Any, n: int) -> Values:
    """What `evaluate` returned for n architectures as (n,) values, NaN allowed; SearchError if it is not."""
    try:
        array = np.asarray(raw)
        if array.dtype.kind not in "biufO":
            raise TypeError
        values = array.astype(float)
    except (TypeError, ValueError, RuntimeError):
        raise SearchError(
            f"{name}: evaluate returned {raw!r:.60} ({type(raw).__name__}), expected numbers"
        ) from None
    if values.shape != (n,):
        raise SearchError(
            f"{name}: evaluate returned shape {values.shape} for {n} architectures; "
            f"it must return one number for each, shape ({n},)"
        )
    return values


def checked_values(name: str, evaluate: Evaluate, archs: Sequence[Architecture]) -> Values:
    """The n values of n architectures; SearchError for another shape or a value that is no finite number.

    `evaluate` is not called without architectures: many libraries raise an error for empty arrays.
    """
    if len(archs) == 0:
        return np.zeros(0)
    try:
        raw = evaluate(archs)
    except HwnasError:
        raise
    except Exception as error:
        raise SearchError(f"{name}: evaluate raised {type(error).__name__}: {one_line(error)}") from error
    values = real_values(name, raw, len(archs))
    if not np.isfinite(values).all():
        bad = int(np.argmin(np.isfinite(values)))
        raise SearchError(f"{name} of {archs[bad]} is {values[bad]}; every value must be a finite number")
    return values
