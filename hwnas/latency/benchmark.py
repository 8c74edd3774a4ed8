"""Any ONNX files timed together by the protocol of verification, each beside the first."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from hwnas.errors import ConfigError
from hwnas.files import expanded
from hwnas.latency.external_data import load_model
from hwnas.latency.measure import Device, naming_models
from hwnas.latency.together import geometric_mean, time_together
from hwnas.progress import Progress, silent
from hwnas.text import one_line

Shapes = Mapping[str, tuple[int, ...]]


def benchmark(
    files: Sequence[str | Path],
    device: Device,
    shapes: Shapes | None = None,
    rounds: int = 48,
    seed: int = 0,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Time ONNX files, or folders of a model.onnx, together on a device; plain data, a row for each in order.

    `shapes` are those of inputs by name, where a file leaves them open. A row has `latency_ms` with its 95 %
    interval `latency_ci_ms`, `passes_ms`, `stable` (known to ±5 %), `cold_ms` (the slowest first call),
    `preempted` (share of runs), `dropped_readings` (number of impossible clock readings) and `notes`. Its
    `ratio` to the first file, with `ratio_ci`, is taken pass by pass, so that what moves all files alike
    cancels. `cores` are the numbers of the cores of all passes; null if they are unknown.
    ConfigError for a file that cannot be timed as it is; DeviceError if the device refuses it.
    """
    read = [read_model(file, shapes or {}) for file in files]
    unknown = sorted(set(shapes or {}) - {name for _, name, _ in read})
    if unknown:
        known = ", ".join(sorted({name for _, name, _ in read}))
        raise ConfigError(f"no file has an input {unknown[0]!r}; inputs: {known}")
    with naming_models([str(file) for file in files]):
        found = time_together([data for data, _, _ in read], device, rounds, seed, progress=progress)
    first, rows = found.latencies[0], []
    for file, (_, _, notes), latency in zip(files, read, found.latencies, strict=True):
        ratio, ratio_ci = geometric_mean(np.log(np.divide(latency.passes_ms, first.passes_ms)).tolist())
        rows.append(
            {
                "file": str(file),
                "latency_ms": latency.ms,
                "latency_ci_ms": list(latency.ci_ms),
                "passes_ms": list(latency.passes_ms),
                "stable": latency.stable,
                "cold_ms": latency.cold_ms,
                "preempted": latency.preempted,
                "dropped_readings": latency.dropped_readings,
                "ratio": ratio,
                "ratio_ci": list(ratio_ci),
                "notes": notes,
            }
        )
    identity = device.identity
    return {
        "device": identity.device,
        "runtime": identity.runtime,
        "statistic": identity.statistic,
        "cores": list(found.cores) or None,
        "noise": list(found.noise),
        "models": rows,
    }


def read_model(file: str | Path, shapes: Shapes) -> tuple[bytes, str, list[str]]:
    """A file as bytes that hold their weights and know their shapes, the input's name, and what was assumed.

    ConfigError unless it has one input of floats, whose size is known but for the batch, which is then 1;
    StoreError if it is larger than 2 GiB, or wants weights from outside its folder.
    """
    path = expanded(file)
    path = path / "model.onnx" if path.is_dir() else path
    try:
        model = load_model(path)
        onnx.checker.check_model(model)
    except (OSError, DecodeError, onnx.checker.ValidationError) as error:
        raise ConfigError(f"cannot read {file} as an ONNX model: {one_line(error)}") from None
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs) or "none"
        raise ConfigError(f"{file} has {len(inputs)} inputs ({names}); models of one can be timed")
    (value,) = inputs
    tensor = value.type.tensor_type
    if tensor.elem_type != onnx.TensorProto.FLOAT:
        kind = onnx.TensorProto.DataType.Name(tensor.elem_type)
        raise ConfigError(f"{file}: input {value.name} is of {kind}; models of FLOAT can be timed")
    declared = [_size(dimension) for dimension in tensor.shape.dim]
    shape, notes = _shape(file, value.name, declared, shapes.get(value.name))
    for dimension, size in zip(tensor.shape.dim, shape, strict=True):
        dimension.dim_value = size
    if shape != declared:
        del model.graph.value_info[:]  # inferred for sizes that were open
        for output in model.graph.output:
            output.type.tensor_type.ClearField("shape")
    return model.SerializeToString(), value.name, notes


def _size(dimension: onnx.TensorShapeProto.Dimension) -> int | str:
    """A positive size as a number, an open one as text; exporters write -1 or 0 for an open size."""
    if dimension.dim_value > 0:
        return int(dimension.dim_value)
    return dimension.dim_param or (str(dimension.dim_value) if dimension.HasField("dim_value") else "?")


def _shape(
    file: str | Path, name: str, declared: Sequence[int | str], given: tuple[int, ...] | None
) -> tuple[list[int], list[str]]:
    """The shape that an input is timed at, and what was assumed; ConfigError if that cannot be known."""
    text = "x".join(map(str, declared))
    if given is not None:
        fits = len(given) == len(declared) and all(
            size == known or not isinstance(known, int) for size, known in zip(given, declared, strict=False)
        )
        if not fits:
            raise ConfigError(f"{file}: --input {name} does not fit its shape, {text}")
        return list(given), []
    sizes = [1 if i == 0 and not isinstance(d, int) else d for i, d in enumerate(declared)]
    known = [size for size in sizes if isinstance(size, int)]
    if len(known) < len(sizes) or not sizes:
        raise ConfigError(f"{file}: input {name} is {text}; say its size: --input {name}:1x3x224x224")
    return known, [] if known == list(declared) else [f"batch {declared[0]!r} is taken as 1"]


def parse_shape(text: str) -> tuple[str, tuple[int, ...]]:
    """``name:1x3x224x224`` as a name and a shape; ConfigError if it is not of that form."""
    name, _, shape = text.rpartition(":")
    if not name or re.fullmatch(r"[1-9][0-9]*(x[1-9][0-9]*)*", shape) is None:
        raise ConfigError(f"--input takes name:1x3x224x224, got {text!r}")
    return name, tuple(map(int, shape.split("x")))
