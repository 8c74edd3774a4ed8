"""The README.md beside an exported model: what it is, how good, how fast, and how to run it.

Its layout is that of model cards on Hugging Face, so that a folder can be uploaded as it is: facts for
programs in front, as YAML (https://github.com/huggingface/hub-docs/blob/main/modelcard.md), the page below.
"""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from scipy import stats

from hwnas.ops import InputSpec
from hwnas.text import printable

SHOWN_CLASSES = 20  # number of classes up to which all are listed
WORST_CLASSES = 10  # number of classes that are listed otherwise

USE = """import json
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
{inputs}
print(json.loads(session.get_modelmeta().custom_metadata_map["classes"])[int(logits[0].argmax())])
"""

TORCH = """As a torch module, from `model.safetensors` and `model.json` in this folder:

```python
import hwnas

network = hwnas.load_model(".")        # in eval mode; takes and gives the same as model.onnx{but}
```

`model.json` says the same as this page of the input and the classes, for programs.
"""


@dataclass(frozen=True)
class Origin:
    """Where a model is from, and what it is judged on.

    `objectives` are those of the search by name, `training` says in sentences how the weights came about,
    `dataset` is its name, `images` the number of images of each split by name, `preparation` how they become
    pixels of one size, `inputs` what `hwnas.export.metadata.input_facts` says of the model's input.
    """

    experiment: str
    objectives: Sequence[str]
    training: str
    dataset: str
    images: Mapping[str, int]
    preparation: str
    inputs: Mapping[str, Any]
    classes: Sequence[str]


def model_card(
    entry: Mapping[str, Any],
    origin: Origin,
    *,
    inputs: Sequence[InputSpec],
    drawing: str,
    device: str,
    batch_size: int = 1,
) -> str:
    """Return the model card of one entry of pareto.json as Markdown.

    Args:
        entry: The entry.
        origin: Where the model is from, and what it is judged on.
        inputs: The inputs of the network, as its space declares them.
        drawing: The network in lines of text.
        device: The device that measured it, and the runtime.
        batch_size: Number of samples of one inference.

    Returns:
        The text of the card.
    """
    measured, predicted = entry["measured"], entry["predicted"]["latency_ms"]
    latency = "not measured yet"
    if measured["latency_ms"] is not None:
        low, high = measured["latency_ci_ms"]
        latency = f"{measured['latency_ms']:.4g} ms (95 %: {low:.4g} to {high:.4g})"
    rows = [
        *([("Fine-tuned", _finetuned(entry["finetuned"]))] if "finetuned" in entry else []),
        *([("In 8 bits", _quantized(entry))] if entry.get("precision") == "int8" else []),
        ("Validation accuracy", _accuracy(entry["validation_accuracy"], origin.images["validation"])),
        ("Test accuracy", _accuracy(entry["test_accuracy"], origin.images["test"])),
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
        *(
            (said, f"{entry[name]:,} bytes")  # of earlier models they are not known
            for name, said in (("model_bytes", "Weights"), ("peak_activation_bytes", "Peak activations"))
            if name in entry
        ),
        *(_checked(entry) if "checks" in entry else []),
        *([("In 8 bits", _int8(entry))] if entry.get("int8") else []),
        ("Status", entry["status"]),
    ]
    table = "\n".join(f"| {_text(name)} | {_text(value)} |" for name, value in rows)
    choices = "\n".join(
        f"| `{_text(name)}` | {_text(value)} |" for name, value in entry["architecture"].items()
    )
    images, classes = origin.images, origin.classes
    before = ", before it was quantised" if entry.get("precision") == "int8" else ""
    torch = "" if "quantized" in entry else TORCH.format(but=before)
    return f"""---
{_metadata(entry, origin)}---

# {origin.experiment}: model {entry["id"]}

A network for images, found by hwnas: none that it evaluated is better in {" or ".join(origin.objectives)}
and no worse in the rest.

| | |
|---|---|
{table}

Latency is warm and back to back, and intervals are of 95 %: those of accuracies over the images, Wilson's.
The test split was not used in training or search.
{_by_class(entry)}
## Input

{_inputs(origin, inputs, batch_size)}

Output: {len(classes)} logits, one a class:
{_text(", ".join(classes[:20]))}{" …" if len(classes) > 20 else ""}.

## Use

```python
{USE.format(inputs=_feed(inputs, batch_size))}```

{torch}`sha256sum -c SHA256SUMS` checks the files.

## Architecture

```text
{drawing}
```

| choice | value |
|---|---|
{choices}

## Data

`{origin.dataset}`: {images["train"]:,} images to learn from, {images["validation"]:,} to choose models by \
(validation), {images["test"]:,} to judge them by (test).

## Training

{origin.training}

## Licence

hwnas, which made this folder, is under the Apache License 2.0. Weights are learnt from data: where the data
ask for other terms, write them here and into `license` above before you publish the folder.
"""


def accuracy_interval(accuracy: float, images: int) -> tuple[float, float]:
    """The 95 % interval (low, high), in percent, of an accuracy in percent on n images: Wilson's.

    https://doi.org/10.1080/01621459.1927.10502953
    """
    share, z = accuracy / 100, float(stats.norm.ppf(0.975))
    middle = (share + z**2 / (2 * images)) / (1 + z**2 / images)
    half = z * math.sqrt(share * (1 - share) / images + z**2 / (4 * images**2)) / (1 + z**2 / images)
    return 100 * (middle - half), 100 * (middle + half)


def _metadata(entry: Mapping[str, Any], origin: Origin) -> str:
    """The YAML in front: accuracies there are shares, as Hugging Face's metric has them."""
    splits = [("test", entry["test_accuracy"]), ("validation", entry["validation_accuracy"])]
    results = [
        {
            "task": {"type": "image-classification", "name": "Image Classification"},
            "dataset": {"type": origin.dataset, "name": origin.dataset, "split": split},
            "metrics": [{"type": "accuracy", "name": f"{split} accuracy", "value": round(accuracy / 100, 6)}],
        }
        for split, accuracy in splits
    ]
    facts = {
        "license": "apache-2.0",
        "library_name": "hwnas",
        "pipeline_tag": "image-classification",
        "tags": [
            "hwnas",
            "neural-architecture-search",
            "onnx",
            *(["int8"] if entry.get("precision") == "int8" else []),
        ],
        "metrics": ["accuracy"],
        "model-index": [{"name": f"{origin.experiment}-{entry['id']}", "results": results}],
    }
    return str(yaml.safe_dump(facts, sort_keys=False, allow_unicode=True))


def class_table(entry: Mapping[str, Any]) -> tuple[str, list[tuple[str, str, str]]] | None:
    """Return the accuracy of a model by class, as text.

    Args:
        entry: An entry of pareto.json.

    Returns:
        A sentence on which classes are listed, and rows of class, test accuracy and validation accuracy,
        the lowest test accuracy first. None if the entry, of an older hwnas, does not know them.
    """
    if "class_accuracy" not in entry:
        return None
    test, validation = (entry["class_accuracy"][split] for split in ("test", "validation"))

    def share(name: str) -> float:
        counts = test[name]
        return counts["correct"] / counts["images"] if counts["images"] else math.inf

    def text(counts: Mapping[str, int]) -> str:
        if not counts["images"]:
            return "no images"
        return f"{100 * counts['correct'] / counts['images']:.1f} % of {counts['images']:,}"

    names = sorted(test, key=share)
    listed = names if len(names) <= SHOWN_CLASSES else names[:WORST_CLASSES]
    sentence = "All classes, the lowest test accuracy first."
    if len(listed) < len(names):
        sentence = f"The {len(listed)} of {len(names):,} classes with the lowest test accuracy."
    return sentence, [(name, text(test[name]), text(validation[name])) for name in listed]


def _by_class(entry: Mapping[str, Any]) -> str:
    """Return the section on the accuracy by class; empty if it is not known."""
    table = class_table(entry)
    if table is None:
        return ""
    sentence, rows = table
    lines = "\n".join(f"| {_text(name)} | {tested} | {validated} |" for name, tested, validated in rows)
    return f"""
## Accuracy by class

{sentence} Each accuracy is the share of the images of the class that are classified as it.

| class | test | validation |
|---|---|---|
{lines}
"""


def _inputs(origin: Origin, inputs: Sequence[InputSpec], batch_size: int) -> str:
    """Return the declared inputs in words, with the steps from an image where there is one image."""
    if _is_image(inputs):
        channels, height, width = inputs[0].shape
        return (
            f"The input is float32 of shape ({batch_size}, {channels}, {height}, {width}): images, channels, "
            "rows, columns.\nThese steps make it from images, as in training and in the stated accuracies:\n"
            f"\n{_recipe(origin, height)}"
        )
    lines = []
    for spec in inputs:
        values = f", values from 0 to {spec.high - 1}" if spec.high is not None else ""
        lines.append(f"- `{_text(spec.name)}`: {spec.dtype} of shape {(batch_size, *spec.shape)}{values}")
    return "\n".join(lines)


def _feed(inputs: Sequence[InputSpec], batch_size: int) -> str:
    """Return the lines of Python that make the inputs and run the model."""
    if _is_image(inputs):
        shape = ", ".join(map(str, (batch_size, *inputs[0].shape)))
        return (
            f"images = np.zeros(({shape}), np.float32)   # your images, made as above\n"
            f'logits = session.run(["logits"], {{"{inputs[0].name}": images}})[0]'
        )
    arrays = [
        f'    "{spec.name}": np.zeros({(batch_size, *spec.shape)}, np.dtype("{spec.dtype}")),'
        for spec in inputs
    ]
    feed = "\n".join(["inputs = {  # your values", *arrays, "}"])
    return f'{feed}\nlogits = session.run(["logits"], inputs)[0]'


def _is_image(inputs: Sequence[InputSpec]) -> bool:
    return len(inputs) == 1 and inputs[0].is_image


def _recipe(origin: Origin, size: int) -> str:
    """Return the numbered steps from an image to the input of the network."""
    inputs = origin.inputs
    mean, std = json.dumps(list(inputs["mean"])), json.dumps(list(inputs["std"]))
    height, width = inputs["image_size"]
    order = "" if inputs["channel_order"] == "as given" else f", {inputs['channel_order']}"
    pixels = f"{_text(origin.preparation)}. The result is {height}×{width} pixels{order}"
    resized = (
        f"Resize to {size}×{size} pixels (bilinear, antialiased), in floating point and without rounding."
    )
    if inputs["normalization"] == "none":
        low, high = (f"{value:.4g}" for value in inputs["value_range"])
        declared = f"(x - mean) / std with mean {mean} and std {std} of each channel; x is {low} to {high}"
        known = f"The DataLoader was declared to give {declared} in the test images."
        if not any(inputs["mean"]) and set(inputs["std"]) == {1}:
            known = f"They are {low} to {high} in the test images."
        steps = [
            f"Prepare: {pixels}, float32.",
            f"Use these values as they are; do not scale or normalise them. {known}",
            resized,
        ]
    else:
        steps = [
            f"Prepare: {pixels}, bytes from 0 to 255.",
            "Divide by 255.",
            f"Subtract the mean of each channel, {mean}, and divide by its standard deviation, {std}.",
            resized,
        ]
    return "\n".join(f"{number}. {step}" for number, step in enumerate(steps, 1))


def _accuracy(accuracy: float, images: int) -> str:
    low, high = accuracy_interval(accuracy, images)
    return f"{accuracy:.2f} % (95 %: {low:.2f} to {high:.2f}, {images:,} images)"


def _text(value: object) -> str:
    """A value in Markdown as it is: in one line, without HTML, links, pictures or columns of its own."""
    plain = html.escape(" ".join(printable(str(value)).split()), quote=False)
    return re.sub(r"[\\*\[\]|]", r"\\\g<0>", plain)


def _checked(entry: Mapping[str, Any]) -> list[tuple[str, str]]:
    checks = entry["checks"]
    before = "before it was quantised, " if entry.get("precision") == "int8" else ""
    onnx = (
        f"{before}outputs on {checks['images']} test images differ by {checks['difference']:.0e} of the "
        f"largest; torch's test accuracy is {checks['torch_test_accuracy']:.2f} %"
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


def _quantized(entry: Mapping[str, Any]) -> str:
    made = entry.get("quantized")
    if made is None:
        return "as the search chose; calibrated by minmax"
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
