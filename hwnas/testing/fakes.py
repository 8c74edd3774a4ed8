"""A device of known costs, for checks that need latencies and no clock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from hwnas.latency.measure import Identity, Plan, Samples
from hwnas.progress import Progress, silent

CALL_NS = 4000


def weight_cost(model: onnx.ModelProto) -> int:
    """Return a cost in nanoseconds that is additive over operators: ten for each weight."""
    return 10 * sum(int(np.prod(tensor.dims)) for tensor in model.graph.initializer)


class FakeDevice:
    """Every model takes the time of a call and of its `cost`, exactly; `disturb` changes single kept runs."""

    def __init__(
        self,
        cost: Callable[[onnx.ModelProto], int] = weight_cost,
        disturb: Callable[[NDArray[Any]], NDArray[Any]] = lambda times: times,
        name: str = "fake",
    ) -> None:
        self.name = name
        self.cost = cost
        self.disturb = disturb
        self.plans: list[Plan] = []

    @property
    def identity(self) -> Identity:
        """A machine and a runtime that do not exist."""
        return Identity(
            {"name": self.name, "cpu": "none", "cores": 1},
            {"name": "fake", "version": "1", "threads": 1, "graph_optimization": "all"},
            "exact",
        )

    def measure(self, models: Sequence[bytes], plan: Plan, progress: Progress = silent) -> Samples:
        """Return the costs of the visited models."""
        self.plans.append(plan)
        costs = np.array([CALL_NS + self.cost(onnx.load_from_string(model)) for model in models])
        visited = np.array([model for visit in plan.visits for model in visit])
        times = self.disturb(np.repeat(costs[visited][:, None], plan.kept_runs, axis=1))
        progress(len(plan.visits), len(plan.visits), "timing")
        return Samples(visited, times, times + 100, np.zeros(times.shape, dtype=bool), 3 * costs)
