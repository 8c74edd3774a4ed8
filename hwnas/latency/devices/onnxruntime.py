"""ONNX Runtime on this machine's CPU."""

from __future__ import annotations

from typing import Any

from hwnas.latency import runner
from hwnas.latency.devices.local import LocalDevice, Run


class OnnxRuntimeDevice(LocalDevice):
    """Times models with all graph optimisations; `threads` are those of the intra-op pool."""

    @property
    def runtime(self) -> dict[str, Any]:
        return runner.onnxruntime_runtime(self.threads)

    def open(self, model: bytes) -> Run:
        return runner.open_onnxruntime(model, self.threads)
