"""Devices: where models are timed. `DEVICES` says which there are; a new one is one file and one line."""

from __future__ import annotations

from collections.abc import Callable

from hwnas.errors import DeviceError
from hwnas.latency.devices.onnxruntime import OnnxRuntimeDevice
from hwnas.latency.devices.openvino import OpenVinoDevice
from hwnas.latency.devices.torch import TorchCudaDevice, TorchDevice
from hwnas.latency.measure import Device

DEVICES: dict[str, Callable[..., Device]] = {
    "onnxruntime": OnnxRuntimeDevice,
    "openvino": OpenVinoDevice,
    "torch": TorchDevice,
    "torch-cuda": TorchCudaDevice,
}


def get_device(name: str, threads: int = 1) -> Device:
    """The device of this name.

    DeviceError for an unknown one or a number of threads it does not have, MissingExtraError if what it
    needs is not installed.
    """
    if name not in DEVICES:
        raise DeviceError(f"unknown device {name!r}; known: {', '.join(DEVICES)}")
    return DEVICES[name](threads=threads)
