"""OpenVINO on this machine's CPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx

from hwnas.errors import DeviceError, MissingExtraError
from hwnas.latency.devices.local import LocalDevice, Run
from hwnas.latency.runner import INPUT_RANGES, TENSOR_TYPES, input_ranges, random_inputs, timed_shape

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
            inputs = [_declared(argument) for argument in loaded.inputs]
            loaded.reshape({i: shape for i, (_, _, shape) in enumerate(inputs)})
            compiled = self._core.compile_model(loaded, DEVICE, options)
        except RuntimeError as error:
            raise DeviceError(f"OpenVINO cannot load a model: {error}") from None
        threads = compiled.get_property("INFERENCE_NUM_THREADS")
        if threads != self.threads:
            raise DeviceError(f"threads is {self.threads}, but OpenVINO uses {threads}; give it the cores")
        feed = random_inputs(inputs, _ranges(model, inputs))
        request = compiled.create_infer_request()
        for i, array in enumerate(feed.values()):
            request.set_input_tensor(i, self._openvino.Tensor(array))
        return lambda: request.infer()


def _declared(argument: Any) -> tuple[str, str, list[int]]:
    """Name, data type and shape at which an input of a model is timed."""
    name, dtype = str(argument.any_name), np.dtype(argument.element_type.to_dtype()).name
    if dtype not in TENSOR_TYPES.values():
        raise DeviceError(f"input {name} of a model is of {dtype}, of which no random values are made")
    sizes = [size.get_length() if size.is_static else None for size in argument.get_partial_shape()]
    return name, dtype, timed_shape(sizes)


def _ranges(model: bytes, inputs: Sequence[tuple[str, str, list[int]]]) -> dict[str, int]:
    """The upper limits of integer inputs, which OpenVINO does not read from the properties of a model."""
    if all(dtype.startswith("float") for _, dtype, _ in inputs):
        return {}
    properties = {prop.key: prop.value for prop in onnx.load_from_string(model).metadata_props}
    return input_ranges(properties.get(INPUT_RANGES))
