"""A device with known costs, and a small space."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx

from hwnas.latency.devices.onnxruntime import OnnxRuntimeDevice
from hwnas.latency.measure import Plan, Samples
from hwnas.ops.onnx import parts
from hwnas.progress import Progress, silent
from hwnas.spaces import NetworkSpace, get_space
from hwnas.testing.fakes import CALL_NS, FakeDevice, weight_cost

__all__ = ["CALL_NS", "ComputedRuntime", "FakeDevice", "PinnedDevice", "small_space", "weight_cost"]


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
        network, _, batch_size = parts(model)
        return CALL_NS + (batch_size or 1) * sum(operator.macs for operator in network.operators) // 10


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
