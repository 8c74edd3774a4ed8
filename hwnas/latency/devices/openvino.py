"""OpenVINO on this machine's CPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hwnas.errors import DeviceError, MissingExtraError
from hwnas.latency.devices.local import LocalDevice, Run
from hwnas.latency.runner import random_input, timed_shape

DEVICE = "CPU"
PRECISION = "f32"  # left to itself OpenVINO computes in bf16 where the processor can


class OpenVinoDevice(LocalDevice):
    """Times models compiled for latency in one stream, in single precision.

    Cores are pinned by hwnas, not by OpenVINO. With one thread it computes in the calling thread. Importing
    OpenVINO reports that to its makers; its command ``opt_in_out --opt_out`` puts an end to it.
    """

    def __init__(self, threads: int = 1, cores: Sequence[int] | None = None) -> None:
        """Check threads and cores as `LocalDevice` does. MissingExtraError without OpenVINO."""
        super().__init__(threads, cores)
        try:
            import openvino
        except ImportError:
            raise MissingExtraError("openvino", "openvino") from None
        self._openvino = openvino
        self._core = openvino.Core()
        # OpenVINO counts the cores once, when it first looks at its device: that must be before any pinning.
        self._core.get_property(DEVICE, "FULL_DEVICE_NAME")

    @property
    def runtime(self) -> dict[str, Any]:
        return {
            "name": "openvino",
            "version": self._openvino.get_version(),
            "provider": DEVICE,
            "threads": self.threads,
            "graph_optimization": "all",
            "streams": 1,
            "performance_hint": "latency",
            "precision_hint": PRECISION,
        }

    def open(self, model: bytes) -> Run:
        options = {
            "INFERENCE_NUM_THREADS": self.threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": PRECISION,
            "ENABLE_CPU_PINNING": False,
        }
        try:
            loaded = self._core.read_model(model)
            (argument,) = loaded.inputs
            declared = [
                size.get_length() if size.is_static else None for size in argument.get_partial_shape()
            ]
            shape = timed_shape(declared)
            loaded.reshape(shape)
            compiled = self._core.compile_model(loaded, DEVICE, options)
        except RuntimeError as error:
            raise DeviceError(f"OpenVINO cannot load a model: {error}") from None
        threads = compiled.get_property("INFERENCE_NUM_THREADS")
        if threads != self.threads:
            raise DeviceError(f"threads is {self.threads}, but OpenVINO uses {threads}; give it the cores")
        request = compiled.create_infer_request()
        request.set_input_tensor(self._openvino.Tensor(random_input(shape)))
        return lambda: request.infer()
