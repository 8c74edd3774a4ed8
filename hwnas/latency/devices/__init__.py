"""Devices: where models are timed. `DEVICES` says which there are; a new one is one file and one line."""

from __future__ import annotations

from collections.abc import Callable

from hwnas.errors import DeviceError, known_names
from hwnas.latency.devices.onnxruntime import OnnxRuntimeDevice
from hwnas.latency.devices.openvino import OpenVinoDevice
from hwnas.latency.devices.ssh import SshDevice
from hwnas.latency.devices.torch import TorchCudaDevice, TorchDevice
from hwnas.latency.measure import Device

DEVICES: dict[str, Callable[..., Device]] = {
    "onnxruntime": OnnxRuntimeDevice,
    "openvino": OpenVinoDevice,
    "ssh": SshDevice,
    "torch": TorchDevice,
    "torch-cuda": TorchCudaDevice,
}


def get_device(name: str, threads: int = 1) -> Device:
    """The device of this name; that of another machine has its address in it, ``ssh://user@host:port``.

    DeviceError for an unknown one or a number of threads it does not have, MissingExtraError if what it
    needs is not installed.
    """
    kind, address = name, {}
    if name.startswith("ssh://"):
        kind, address = "ssh", {"address": name.removeprefix("ssh://")}
    elif name == "ssh":
        raise DeviceError("device 'ssh' needs an address: ssh://user@host:port")
    if kind not in DEVICES:
        raise DeviceError(f"unknown device {name!r}; {known_names(kind, DEVICES)}")
    return DEVICES[kind](**address, threads=threads)
