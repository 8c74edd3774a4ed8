"""Any ONNX files timed together by the protocol of verification, each beside the first."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import helper

from hwnas.errors import ConfigError
from hwnas.files import expanded
from hwnas.latency.external_data import load_model
from hwnas.latency.measure import Device, naming_models
from hwnas.latency.runner import INPUT_RANGES, TENSOR_TYPES, RunnerError, input_ranges
from hwnas.latency.together import geometric_mean, time_together
from hwnas.progress import Progress, silent
from hwnas.text import one_line

Shapes = Mapping[str, tuple[int, ...]]

# Types of ONNX of which random values are made.
NUMBERS = tuple(helper.np_dtype_to_tensor_dtype(np.dtype(name)) for name in TENSOR_TYPES.values())
INTEGERS = tuple(number for number in NUMBERS if helper.tensor_dtype_to_np_dtype(number).kind in "iu")


def benchmark(
    files: Sequence[str | Path],
    device: Device,
    shapes: Shapes | None = None,
    rounds: int = 48,
    seed: int = 0,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Time ONNX files, or folders of a model.onnx, together on a device; plain data, a row for each in order.

    Inputs are random values of their declared types. `shapes` are those of inputs by name, where a file
    leaves them open. A row has `latency_ms` with its 95 % interval `latency_ci_ms`, `passes_ms`, `stable`
    (known to ±5 %), `cold_ms` (the slowest first call), `preempted` (share of runs), `dropped_readings`
    (number of impossible clock readings) and `notes`. Its `ratio` to the first file, with `ratio_ci`, is
    taken pass by pass, so that what moves all files alike cancels. `cores` are the numbers of the cores of
    all passes; null if they are unknown.
    ConfigError for a file that cannot be timed as it is; DeviceError if the device refuses it.
    """
    read = [read_model(file, shapes or {}) for file in files]
    known = {name for _, names, _ in read for name in names}
    unknown = sorted(set(shapes or {}) - known)
    if unknown:
        raise ConfigError(f"no file has an input {unknown[0]!r}; inputs: {', '.join(sorted(known))}")
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


def read_model(file: str | Path, shapes: Shapes) -> tuple[bytes, list[str], list[str]]:
    """Read an ONNX file, and fix the shapes of its inputs.

    Args:
        file: An ONNX file, or a folder of a model.onnx.
        shapes: Shapes of inputs by name. A dimension that they fix, such as ``sequence``, is known in all
            inputs of the file. A batch that is still open becomes 1.

    Returns:
        The serialised model with its weights, the names of its inputs, and notes on what was assumed.

    Raises:
        ConfigError: If the file is no ONNX model, an input is not of numbers, or its size is not known.
        StoreError: If the file is larger than 2 GiB, or refers to weights outside its folder.
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
    if not inputs:
        raise ConfigError(f"{file} has no inputs, so it computes a constant; give a model that has some")
    ranges = _declared_ranges(file, model)
    declared = {value.name: _declared_sizes(file, value) for value in inputs}
    known = _given_sizes(file, declared, shapes)
    notes: list[str] = []
    for value in inputs:
        shape = _shape(file, value.name, declared[value.name], shapes.get(value.name), known, notes)
        for dimension, size in zip(value.type.tensor_type.shape.dim, shape, strict=True):
            dimension.dim_value = size
        if value.type.tensor_type.elem_type in INTEGERS and value.name not in ranges:
            notes.append(f"integers of {value.name} are drawn from 0 and 1")
        if shape != declared[value.name]:
            del model.graph.value_info[:]  # inferred for sizes that were open
            for output in model.graph.output:
                output.type.tensor_type.ClearField("shape")
    return model.SerializeToString(), list(declared), list(dict.fromkeys(notes))


def _declared_ranges(file: str | Path, model: onnx.ModelProto) -> dict[str, int]:
    properties = {prop.key: prop.value for prop in model.metadata_props}
    try:
        return input_ranges(properties.get(INPUT_RANGES))
    except RunnerError as error:
        raise ConfigError(f"{file}: {error}") from None


def _declared_sizes(file: str | Path, value: onnx.ValueInfoProto) -> list[int | str]:
    """The sizes of an input, open ones as text; ConfigError unless it is of numbers that can be made."""
    tensor = value.type.tensor_type
    if not value.type.HasField("tensor_type") or tensor.elem_type not in NUMBERS:
        kind = onnx.TensorProto.DataType.Name(tensor.elem_type)
        kinds = ", ".join(onnx.TensorProto.DataType.Name(number) for number in NUMBERS)
        raise ConfigError(f"{file}: input {value.name} is of {kind}; models of {kinds} can be timed")
    return [_size(dimension) for dimension in tensor.shape.dim]


def _given_sizes(
    file: str | Path, declared: Mapping[str, Sequence[int | str]], shapes: Shapes
) -> dict[str, int]:
    """The sizes of named dimensions that the given shapes fix; ConfigError if they contradict each other."""
    known: dict[str, int] = {}
    for name, sizes in declared.items():
        for size, given in zip(sizes, shapes.get(name, ()), strict=False):
            if isinstance(size, str) and size.isidentifier() and known.setdefault(size, given) != given:
                raise ConfigError(
                    f"{file}: --input {name} makes dimension {size} {given}, another --input {known[size]}; "
                    "give it one size"
                )
    return known


def _size(dimension: onnx.TensorShapeProto.Dimension) -> int | str:
    """A positive size as a number, an open one as text; exporters write -1 or 0 for an open size."""
    if dimension.dim_value > 0:
        return int(dimension.dim_value)
    return dimension.dim_param or (str(dimension.dim_value) if dimension.HasField("dim_value") else "?")


def _shape(
    file: str | Path,
    name: str,
    declared: Sequence[int | str],
    given: tuple[int, ...] | None,
    sizes: Mapping[str, int],
    notes: list[str],
) -> list[int]:
    """The shape that an input is timed at; ConfigError if it cannot be known.

    `sizes` are those of named dimensions; what is assumed is added to `notes`.
    """
    text = "x".join(map(str, declared))
    if given is not None:
        fits = len(given) == len(declared) and all(
            size == known or not isinstance(known, int) for size, known in zip(given, declared, strict=False)
        )
        if not fits:
            raise ConfigError(f"{file}: --input {name} does not fit its shape, {text}")
        return list(given)
    shape = [sizes.get(size, size) if isinstance(size, str) else size for size in declared]
    if shape and isinstance(shape[0], str):
        notes.append(f"batch {shape[0]!r} is taken as 1")
        shape[0] = 1
    known = [size for size in shape if isinstance(size, int)]
    if len(known) < len(shape):
        filled = "x".join(str(size) if isinstance(size, int) else "128" for size in shape)
        example = "1x3x224x224" if len(shape) == 4 else filled
        raise ConfigError(f"{file}: input {name} is {text}; say its size: --input {name}:{example}")
    return known


def parse_shape(text: str) -> tuple[str, tuple[int, ...]]:
    """``name:1x3x224x224`` as a name and a shape; ConfigError if it is not of that form."""
    name, _, shape = text.rpartition(":")
    if not name or re.fullmatch(r"[1-9][0-9]*(x[1-9][0-9]*)*", shape) is None:
        raise ConfigError(f"--input takes name:1x3x224x224, got {text!r}")
    return name, tuple(map(int, shape.split("x")))
