"""ONNX Runtime on this machine's CPU."""

from __future__ import annotations

from typing import Any

import onnxruntime

from hwnas.errors import DeviceError
from hwnas.latency.devices.local import LocalDevice, Run, random_input

PROVIDER = "CPUExecutionProvider"


class OnnxRuntimeDevice(LocalDevice):
    """Times models with all graph optimisations; `threads` are those of the intra-op pool."""

    @property
    def runtime(self) -> dict[str, Any]:
        return {
            "name": "onnxruntime",
            "version": onnxruntime.__version__,
            "provider": PROVIDER,
            "threads": self.threads,
            "graph_optimization": "all",
        }

    def open(self, model: bytes) -> Run:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            session = onnxruntime.InferenceSession(model, options, providers=[PROVIDER])
        except Exception as error:  # its exceptions have no common base class
            raise DeviceError(f"ONNX Runtime cannot load a model: {error}") from None
        (argument,) = session.get_inputs()
        shape = [size if isinstance(size, int) else 1 for size in argument.shape]
        outputs = [output.name for output in session.get_outputs()]
        feed = {argument.name: random_input(shape)}
        return lambda: session.run(outputs, feed)
