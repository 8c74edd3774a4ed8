"""Devices: where models are timed. `DEVICES` says which there are; a new one is one file and one line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

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


def get_device(name: str, threads: int = 1, cores: Sequence[int] | None = None) -> Device:
    """Return the device of a name; that of another machine has its address in it, ``ssh://user@host:port``.

    Args:
        name: one of `DEVICES`, or the address of a board.
        threads: number of threads of one inference.
        cores: numbers of the cores that may be used, by default those of the highest capacity.

    Returns:
        The device. One over ssh is not connected to yet.

    Raises:
        DeviceError: if the name is unknown, or the threads have no core each.
        MissingExtraError: if the device needs a package that is not installed.
    """
    kind = name
    options: dict[str, Any] = {} if cores is None else {"cores": tuple(cores)}
    if name.startswith("ssh://"):
        kind, options["address"] = "ssh", name.removeprefix("ssh://")
    elif name == "ssh":
        raise DeviceError("device 'ssh' needs an address: ssh://user@host:port")
    if kind not in DEVICES:
        raise DeviceError(f"unknown device {name!r}; {known_names(kind, DEVICES)}")
    return DEVICES[kind](**options, threads=threads)
