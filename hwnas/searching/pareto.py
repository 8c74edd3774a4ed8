"""The Pareto front of what was evaluated, and its exact hypervolume."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import moocore
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hwnas.errors import InfeasibleError, SearchError
from hwnas.searching.objectives import DIRECTIONS, Constraint, Evaluation, Objective, Values, free_name

ON_CHORD = 1e-9  # of what is scaled to 0 … 1: rounding


@dataclass(frozen=True)
class ParetoFront(Sequence[Evaluation]):
    """The evaluations that no other one beats, the best in the first objective first.

    Of several with equal values the first evaluated stands for all.
    """

    evaluations: tuple[Evaluation, ...]
    objectives: tuple[Objective, ...]

    @classmethod
    def of(
        cls,
        evaluations: Sequence[Evaluation],
        objectives: Sequence[Objective],
        constraints: Sequence[Constraint] = (),
    ) -> ParetoFront:
        """The front of all evaluations that succeeded and satisfy the constraints; it may be empty.

        SearchError if one of them lacks a metric that an objective or a constraint names, or has a value
        there that is no finite number.
        """
        positions, points = candidates(evaluations, objectives, constraints)
        if not len(positions):
            return cls((), tuple(objectives))
        _, first = np.unique(points, axis=0, return_index=True)
        best = moocore.is_nondominated(points[first], maximise=[o.direction == "max" for o in objectives])
        chosen = first[best]
        values = points[chosen, 0]
        order = np.lexsort((chosen, -values if objectives[0].direction == "max" else values))
        return cls(tuple(evaluations[i] for i in positions[chosen[order]]), tuple(objectives))

    def __len__(self) -> int:
        return len(self.evaluations)

    def __getitem__(self, item: Any) -> Any:
        return self.evaluations[item]

    def __iter__(self) -> Iterator[Evaluation]:
        return iter(self.evaluations)

    @property
    def points(self) -> Values:
        """(n, objectives) values in the objectives' own units and directions."""
        values = [[e.metrics[o.name] for o in self.objectives] for e in self.evaluations]
        return np.array(values, dtype=float).reshape(len(self), len(self.objectives))

    def best(self, **bounds: float) -> Evaluation:
        """The best in the first objective under bounds such as ``max_latency_ms=2.0`` or ``min_accuracy=90``.

        SearchError for an unknown metric, InfeasibleError, with the nearest value, when none is within.
        """
        return self.within(**bounds).evaluations[0]

    def within(self, **bounds: float) -> ParetoFront:
        """The part of the front under bounds such as ``max_latency_ms=2.0`` or ``min_accuracy=90``.

        What lacks a metric is not within. SearchError for one that nothing has, InfeasibleError, with the
        nearest value, when nothing is within.
        """
        if not self.evaluations:
            raise InfeasibleError("the front is empty: no evaluation succeeded within the constraints")
        left, kept = self.evaluations, ""
        for bound, limit in bounds.items():
            kind, _, name = bound.partition("_")
            metrics = dict.fromkeys(metric for e in self.evaluations for metric in e.metrics)
            if kind not in ("max", "min") or name not in metrics:
                known = ", ".join(f"max_{m}, min_{m}" for m in metrics)
                raise SearchError(f"unknown bound {bound!r}; known: {known}")
            try:
                limit = float(limit)
            except (TypeError, ValueError):
                raise SearchError(f"{bound} is a number, got {limit!r}") from None
            values = [e.metrics.get(name, math.nan) for e in left]
            keep = [value <= limit if kind == "max" else value >= limit for value in values]
            text = f"{name} {'<=' if kind == 'max' else '>='} {limit:g}"
            if not any(keep):
                known_values = [value for value in values if not math.isnan(value)]
                nearest = (min if kind == "max" else max)(known_values, default=math.nan)
                raise InfeasibleError(f"nothing on the front has {text}{kept}; the nearest has {nearest:g}")
            left = tuple(e for e, inside in zip(left, keep, strict=True) if inside)
            kept += f"{' and' if kept else ' where'} {text}"
        return ParetoFront(left, self.objectives)

    @property
    def knee(self) -> Evaluation | None:
        """The evaluation that lies farthest beyond the chord of the front; None if none lies beyond it.

        Each objective is scaled to 0 (the worst on the front) … 1 (the best). The chord joins the two ends of
        a front of two objectives; with more it is the plane on which the scaled values add up to 1. Das,
        https://doi.org/10.1007/BF01195985.
        """
        points = self.points * [1 if o.direction == "max" else -1 for o in self.objectives]
        if len(points) < 3:
            return None
        span = np.ptp(points, axis=0)
        varied = span > 0
        scaled = (points - points.min(axis=0))[:, varied] / span[varied]
        beyond = scaled.sum(axis=1) - 1
        farthest = int(np.argmax(beyond))
        return self.evaluations[farthest] if beyond[farthest] > ON_CHORD else None

    def to_frame(self) -> pd.DataFrame:
        """One row a model: the objectives in their order, then `architecture`, its values by choice name."""
        columns: dict[str, Any] = {
            o.name: [e.metrics[o.name] for e in self.evaluations] for o in self.objectives
        }
        columns[free_name("architecture", columns)] = [e.architecture.values for e in self.evaluations]
        return pd.DataFrame(columns)

    def hypervolume(self, reference: Sequence[float]) -> float:
        """Exact hypervolume between the front and `reference`, one value an objective, in its units."""
        return hypervolume(self.points, reference, [o.direction for o in self.objectives])


def candidates(
    evaluations: Sequence[Evaluation], objectives: Sequence[Objective], constraints: Sequence[Constraint]
) -> tuple[NDArray[np.int64], Values]:
    """The positions (k,) of evaluations that succeeded and satisfy the constraints, and their values (k, m).

    SearchError as `ParetoFront.of` says.
    """
    good = [i for i, e in enumerate(evaluations) if e.status == "ok"]
    for constraint in constraints:
        within = constraint.violation([_metric(evaluations[i], constraint.name) for i in good]) == 0
        good = [i for i, inside in zip(good, within, strict=True) if inside]
    points = [[_metric(evaluations[i], o.name) for o in objectives] for i in good]
    return np.array(good, dtype=np.int64), np.array(points, dtype=float).reshape(-1, len(objectives))


def hypervolume(points: Any, reference: Sequence[float], directions: str | Sequence[str] = "min") -> float:
    """Exact hypervolume of (n, m) points, dominated ones allowed, up to `reference` (m,).

    `directions` is "max" or "min", for all or one for each of the m objectives; points that are not better
    than the reference in all of them add nothing. SearchError for shapes that do not fit or a NaN.
    """
    target = np.asarray(reference, dtype=float)
    names = [directions] * target.size if isinstance(directions, str) else list(directions)
    array = np.asarray(points, dtype=float)
    array = array.reshape(0, target.size) if array.size == 0 else array
    if array.ndim != 2 or target.shape != (array.shape[1],) or len(names) != array.shape[1]:
        raise SearchError(
            f"hypervolume of points of shape {array.shape} needs one reference value and one direction "
            f"an objective, got {target.shape} and {len(names)}"
        )
    if not set(names) <= set(DIRECTIONS):
        raise SearchError(f"directions are 'max' or 'min', got {names}")
    if not (np.isfinite(array).all() and np.isfinite(target).all()):
        raise SearchError("hypervolume of points or a reference that are not finite numbers")
    if len(array) == 0:
        return 0.0
    return float(moocore.hypervolume(array, ref=target, maximise=[name == "max" for name in names]))


def _metric(evaluation: Evaluation, name: str) -> float:
    if name not in evaluation.metrics:
        known = ", ".join(evaluation.metrics)
        raise SearchError(f"{name!r} is not a metric of {evaluation.architecture} (it has {known})")
    value = evaluation.metrics[name]
    if not math.isfinite(value):
        raise SearchError(
            f"{name} of {evaluation.architecture} is {value}; an evaluation without a finite value has "
            "status 'failed'"
        )
    return value
