"""The README.md beside an exported model: what it is, how good, how fast, and how to run it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

USE = """import json
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
images = np.zeros((1, {channels}, {size}, {size}), np.float32)   # (pixels / 255 - mean) / std, see above
logits = session.run(["logits"], {{"input": images}})[0]
print(json.loads(session.get_modelmeta().custom_metadata_map["classes"])[int(logits.argmax())])
"""

TORCH = """As a torch module, from `model.safetensors` and `model.json` in this folder:

```python
import hwnas

network = hwnas.load_model(".")        # in eval mode; takes and gives the same as model.onnx
```

`model.json` says the same as this page of the input and the classes, for programs.
"""


def model_card(
    entry: Mapping[str, Any],
    *,
    experiment: str,
    objectives: Sequence[str],
    input_shape: tuple[int, ...],
    preparation: str,
    preprocessing: Mapping[str, Sequence[float]],
    classes: Sequence[str],
    device: str,
    batch_size: int = 1,
) -> str:
    """Markdown for one entry of pareto.json. `input_shape` is (channels, height, width).

    `preparation` says how the dataset's images become pixels, before they are resized for the network.
    """
    channels, size = input_shape[0], input_shape[1]
    measured, predicted = entry["measured"], entry["predicted"]["latency_ms"]
    latency = "not measured yet"
    if measured["latency_ms"] is not None:
        low, high = measured["latency_ci_ms"]
        latency = f"{measured['latency_ms']:.4g} ms (95 %: {low:.4g} to {high:.4g})"
    rows = [
        *([("Fine-tuned", _finetuned(entry["finetuned"]))] if "finetuned" in entry else []),
        *([("In 8 bits", _quantized(entry["quantized"]))] if "quantized" in entry else []),
        ("Validation accuracy", f"{entry['validation_accuracy']:.2f} %"),
        ("Test accuracy", f"{entry['test_accuracy']:.2f} %"),
        (f"Measured latency, batch {batch_size}", latency),
        *([] if predicted is None else [("Predicted latency", f"{predicted:.4g} ms")]),
        ("Device", device),
        *(
            (f"Predicted latency, {metric.partition('@')[2]}", f"{value:.4g} ms")
            for metric, value in entry["predicted"].items()
            if "@" in metric
        ),
        *(
            (f"Measured latency, {metric.partition('@')[2]}", f"{value:.4g} ms")
            for metric, value in measured.items()
            if metric.startswith("latency_ms@")
        ),
        ("MACs", f"{entry['macs']:,}"),
        ("Parameters", f"{entry['params']:,}"),
        *(_checked(entry["checks"]) if "checks" in entry else []),
        *([("In 8 bits", _int8(entry))] if entry.get("int8") else []),
        ("Status", entry["status"]),
    ]
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    choices = "\n".join(f"| `{name}` | {value} |" for name, value in entry["architecture"].items())
    return f"""# {experiment}: model {entry["id"]}

A network found by hwnas: none that it evaluated is better in {" or ".join(objectives)}
and no worse in the rest.

| | |
|---|---|
{table}

Latency is warm and back to back; the test split was not used in training or search.

## Input

Float32 of shape (1, {channels}, {size}, {size}). Images were prepared as: {preparation};
then resized to {size}×{size} (bilinear, antialiased), scaled to 0–1, less the mean
{json.dumps(list(preprocessing["mean"]))}, over the standard deviation
{json.dumps(list(preprocessing["std"]))}. Output: {len(classes)} logits, one a class:
{", ".join(classes[:20])}{" …" if len(classes) > 20 else ""}.

## Use

```python
{USE.format(channels=channels, size=size)}```

{"" if "quantized" in entry else TORCH}`sha256sum -c SHA256SUMS` checks the files.

## Architecture

| choice | value |
|---|---|
{choices}
"""


def _checked(checks: Mapping[str, Any]) -> list[tuple[str, str]]:
    onnx = (
        f"outputs on {checks['images']} test images differ by {checks['difference']:.0e} of the largest; "
        f"torch's test accuracy is {checks['torch_test_accuracy']:.2f} %"
    )
    rows = [("Checked against torch", onnx)]
    if "openvino" in checks:
        by = checks["openvino"]
        text = f"outputs differ by {by['difference']:.0e}, test accuracy {by['test_accuracy']:.2f} %"
        rows.append(("`model.xml`, by OpenVINO", text))
    return rows


def _int8(entry: Mapping[str, Any]) -> str:
    """What became of a model in 8 bits."""
    int8 = entry["int8"]
    validation, test = int8["validation_accuracy"], int8["test_accuracy"]
    kept = {"kept": f"kept, as model {entry['id']}-int8", "candidate": "not measured yet"}
    reason = "" if int8["status"] == "candidate" else f": {int8['reason']}"
    return (
        f"{kept.get(int8['status'], 'dropped')}{reason}. Validation accuracy {validation['int8']:.2f} % (in "
        f"single precision {validation['fp32']:.2f} %), test {test['int8']:.2f} % ({test['fp32']:.2f} %); "
        f"{_calibrated(int8)}"
    )


def _quantized(made: Mapping[str, Any]) -> str:
    low, high = made["speedup_ci"]
    return (
        f"made of model {made['from']}, {made['speedup']:.2f} times as fast (95 %: {low:.2f} to {high:.2f}); "
        f"{_calibrated(made)}"
    )


def _calibrated(int8: Mapping[str, Any]) -> str:
    number = len(int8["excluded"])
    excluded = f", {number} operator{'s' if number > 1 else ''} in single precision" if number else ""
    return f"calibrated by {int8['calibration']}{excluded}"


def _finetuned(made: Mapping[str, Any]) -> str:
    low, high = made["gain_ci"]
    return (
        f"from model {made['from']} for {made['epochs']} epochs: {made['gain']:+.2f} points of validation "
        f"accuracy (95 %: {low:+.2f} to {high:+.2f})"
    )
