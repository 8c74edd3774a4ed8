"""What a model file says of itself: how images are prepared, how good and fast it is, and on what."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from hwnas.images import READER
from hwnas.ops.onnx import OPSET
from hwnas.training.data import Dataset, Held

CHANNEL_ORDERS = {1: "grey", 3: "RGB"}


def input_facts(data: Dataset, shape: tuple[int, ...]) -> dict[str, Any]:
    """Plain data on the input of a model, of shape (channels, height, width), for images of a dataset.

    `normalization` is what was done to the images of the dataset: bytes are divided by 255 and normalised by
    `mean` and `std` of each channel; the floats of a torch DataLoader are used as they are, and its owner
    declared that they are (x - mean) / std. `value_range` has the smallest and largest x. A DataLoader gives
    its channels in an order that only its owner knows.
    """
    own = data.settings["name"] == "loader"
    floats = isinstance(data.stored, Held) and data.stored.images.is_floating_point()
    return {
        "shape": list(shape),
        "layout": "NCHW",
        "type": "float32",
        "channel_order": "as given" if own else CHANNEL_ORDERS.get(shape[0], "as given"),
        "normalization": "none" if floats else "(value / 255 - mean) / std",
        "value_range": [round(value, 6) + 0.0 for value in data.value_range],  # + 0.0: no -0.0
        "mean": list(data.mean),
        "std": list(data.std),
        "image_size": list(data.stored.shape[2:]),  # what an image is cut to before it is resized
        "resize": "bilinear, antialiased",
        **({} if own else {"reader": data.reader or READER}),  # of image files, see hwnas.images
        "preparation": data.preparation,
    }


def properties(
    entry: Mapping[str, Any],
    inputs: Mapping[str, Any],
    classes: tuple[str, ...],
    device: Mapping[str, Any],
    runtime: Mapping[str, Any],
) -> dict[str, str]:
    """The properties of an ONNX file; what is not text is JSON.

    `entry` is one of pareto.json, `inputs` comes from `input_facts`, `device` and `runtime` are what the
    latency is of. The latency is the predicted one until the model was measured.
    """
    measured = entry["measured"]["latency_ms"]
    latency = {"predicted_latency_ms": entry["predicted"]["latency_ms"]}
    if measured is not None:
        latency["latency_ms"] = measured
    values = {
        "producer": f"hwnas {version('hwnas')}",
        "id": entry["id"],
        "architecture": entry["architecture"],
        "validation_accuracy": entry["validation_accuracy"],
        "test_accuracy": entry["test_accuracy"],
        **latency,
        "precision": entry["precision"],
        "device": device["cpu"],
        "runtime": f"{runtime['name']} {runtime['version']}",
        "threads": runtime["threads"],
        "opset": OPSET,
        "size": inputs["shape"][1:],
        **{name: value for name, value in inputs.items() if name not in ("shape", "type")},
        "classes": classes,
    }
    return {
        name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for name, value in values.items()
    }


def int8_properties(entry: Mapping[str, Any]) -> dict[str, str]:
    """What the properties of a model in 8 bits say otherwise than those of the one that it is made of."""
    values = {
        "validation_accuracy": entry["validation_accuracy"],
        "test_accuracy": entry["test_accuracy"],
        "latency_ms": entry["measured"]["latency_ms"],
        **{name: entry["quantized"][name] for name in ("calibration", "excluded")},
    }
    texts = {name: json.dumps(value) for name, value in values.items()}
    return {"id": entry["id"], "precision": entry["precision"], **texts}
