"""A device with known costs, and a small space."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx

from hwnas.latency.devices.onnxruntime import OnnxRuntimeDevice
from hwnas.latency.measure import Identity, Plan, Samples
from hwnas.ops.onnx import parts
from hwnas.progress import Progress, silent
from hwnas.spaces import NetworkSpace, get_space

CALL_NS = 4000


def small_space(**changes) -> NetworkSpace:
    parameters = {
        "resolutions": (8, 12),
        "channels": 1,
        "classes": 4,
        "stem": {"width": [8], "activation": "relu"},
        "head": {"width": 16, "activation": "relu"},
        "stages": [
            {
                "block": "fused",
                "width": [8, 16],
                "depth": [1, 2],
                "kernel": [3, 5],
                "expand": [1, 2],
                "stride": 2,
            },
            {"block": "mbconv", "width": [16], "depth": [1, 2], "kernel": [3], "expand": [1, 2], "se": True},
        ],
    }
    return get_space("mobilenetv3", **{**parameters, **changes})


def weight_cost(model: onnx.ModelProto) -> int:
    """A cost in nanoseconds that is additive over operators: ten a weight."""
    return 10 * sum(int(np.prod(tensor.dims)) for tensor in model.graph.initializer)


class FakeDevice:
    """Every model costs a call and what `cost` says, exactly; `disturb` changes single kept runs."""

    def __init__(
        self,
        cost: Callable[[onnx.ModelProto], int] = weight_cost,
        disturb: Callable[[np.ndarray], np.ndarray] = lambda times: times,
        name: str = "fake",
    ) -> None:
        self.name = name
        self.cost = cost
        self.disturb = disturb
        self.plans: list[Plan] = []

    @property
    def identity(self) -> Identity:
        return Identity(
            {"name": self.name, "cpu": "none", "cores": 1},
            {"name": "fake", "version": "1", "threads": 1, "graph_optimization": "all"},
            "exact",
        )

    def measure(self, models, plan: Plan, progress: Progress = silent) -> Samples:
        self.plans.append(plan)
        costs = np.array([CALL_NS + self.cost(onnx.load_from_string(model)) for model in models])
        visited = np.array([model for visit in plan.visits for model in visit])
        times = self.disturb(np.repeat(costs[visited][:, None], plan.kept_runs, axis=1))
        progress(len(plan.visits), len(plan.visits), "timing")
        return Samples(visited, times, times + 100, np.zeros(times.shape, dtype=bool), 3 * costs)


class ComputedRuntime(OnnxRuntimeDevice):
    """ONNX Runtime whose latencies are computed from the operators: the same on every machine.

    Models are opened and run as usual. Only the times that the clocks gave are replaced.
    """

    def measure(self, models, plan: Plan, progress: Progress = silent) -> Samples:
        samples = super().measure(models, plan, progress)
        costs = np.array([self._cost_ns(onnx.load_from_string(model)) for model in models])
        times = np.repeat(costs[samples.model][:, None], plan.kept_runs, axis=1)
        preempted = np.zeros(times.shape, dtype=bool)
        return replace(samples, time_ns=times, wall_ns=times + 100, preempted=preempted, cold_ns=3 * costs)

    def _cost_ns(self, model: onnx.ModelProto) -> int:
        operators, _, batch_size = parts(model)
        return CALL_NS + (batch_size or 1) * sum(operator.macs for operator in operators) // 10


class PinnedDevice(FakeDevice):
    """A device that may use some cores: a measurement runs on its earlier core while it may, else on another.

    Each new measurement begins on the next core.
    """

    def __init__(self, *cores: int) -> None:
        super().__init__()
        self.available = list(cores)

    def measure(self, models, plan: Plan, progress: Progress = silent) -> Samples:
        samples = super().measure(models, plan, progress)
        if plan.cores and set(plan.cores) <= set(self.available):
            return replace(samples, cores=plan.cores)
        self.available.append(self.available.pop(0))
        return replace(samples, cores=(self.available[-1],))
