"""A model's entry: what is known of it, beside its files."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwnas.errors import StoreError
from hwnas.export.card import Origin, model_card
from hwnas.export.sums import write_sums
from hwnas.report.data import operator_times
from hwnas.report.drawing import sketch_network
from hwnas.searching.objectives import Evaluation
from hwnas.spaces import Architecture
from hwnas.store import read_json, write_json, write_text

if TYPE_CHECKING:
    from hwnas.pipeline.job import Run

PARETO_SCHEMA = 1
MODEL_ID = re.compile("[0-9a-f]{12}(-ft[1-9][0-9]*)?(-int8)?")


def check_data(run: Run) -> None:
    """Check that all splits of the data can be read.

    Args:
        run: The run.

    Raises:
        DataError: A split is missing or damaged.
    """
    run.data("train")
    run.data("validation")
    run.data("test")


def evaluation_of(run: Run, entry: Mapping[str, Any]) -> Evaluation:
    """An entry of pareto.json as an evaluation whose latency is the measured one."""
    metrics = {
        **entry["predicted"],
        "accuracy": entry["validation_accuracy"],
        "latency_ms": entry["measured"]["latency_ms"],
        "test_accuracy": entry["test_accuracy"],
    }
    arch = run.space.architecture(entry["architecture"])
    return Evaluation(arch, metrics | costs_of(run, arch, entry.get("precision", "fp32")))


def costs_of(run: Run, arch: Architecture, precision: str) -> dict[str, int]:
    """MACs, parameters and bytes of an architecture, by name."""
    space = run.space
    found = {
        "macs": space.macs([arch]),
        "params": space.params([arch]),
        "model_bytes": space.model_bytes([arch], precision),
        "peak_activation_bytes": space.peak_activation_bytes([arch], precision),
    }
    return {name: int(values[0]) for name, values in found.items()}


def read_entry(run: Run, name: str) -> dict[str, Any]:
    """architecture.json of a model; StoreError if it is missing, or that of another."""
    path = model_folder(run, name) / "architecture.json"
    entry = read_json(path)
    if entry.get("id") != name:
        raise StoreError(
            f"{path} is of the model {entry.get('id')!r}; {run.directory} was put together wrongly"
        )
    return entry


def model_folder(run: Run, name: str) -> Path:
    """Where a model lies; StoreError for what is no model's id, which could name any folder."""
    path = run.directory / "models" / str(name)
    if MODEL_ID.fullmatch(str(name)) is None or path.is_symlink():
        raise StoreError(f"{run.directory} names a model {name!r}, which is no folder of its own in models/")
    return path


def write_entry(run: Run, entry: Mapping[str, Any]) -> None:
    """architecture.json, README.md and SHA256SUMS of a model."""
    from hwnas.export.metadata import input_facts

    folder, arch = model_folder(run, entry["id"]), run.space.architecture(entry["architecture"])
    inputs = run.space.inputs(arch)
    write_json(folder / "architecture.json", entry)
    data, runtime = run.data("test"), run.latency.runtime
    card = model_card(
        entry,
        Origin(
            experiment=run.config.name,
            objectives=run.config.search.objectives,
            training=_training(run, entry),
            dataset=run.config.data.name,
            images={
                "train": len(run.data("train")),
                "validation": len(run.data("validation")),
                "test": len(data),
            },
            preparation=data.preparation,
            inputs=input_facts(data, inputs[0].shape),
            classes=data.classes,
        ),
        inputs=inputs,
        drawing=sketch_network(operator_times(run.space, arch, None)),
        device=f"{run.latency.device['cpu']}, {runtime['name']} {runtime['version']}, "
        f"threads: {runtime['threads']}",
        batch_size=run.config.latency.batch_size,
    )
    write_text(folder / "README.md", card)
    write_sums(folder)


def _training(run: Run, entry: Mapping[str, Any]) -> str:
    """How the weights of a model came about, in sentences."""
    training, images = run.config.training, run.config.search.calibration_images
    sentences = [
        f"One supernet was trained for {training.steps:,} steps of {training.batch_size} images, each of "
        f"several networks (strategy {training.strategy.name}, seed {run.config.seed}).",
        f"This one has its share of the weights, with batch-norm statistics from {images:,} training images.",
    ]
    if "finetuned" in entry:
        made = entry["finetuned"]
        sentences.append(
            f"It was then trained on by itself for {made['epochs']} epochs, at a learning rate of "
            f"{made['learning_rate']:g}."
        )
    if "quantized" in entry:
        sentences.append("Then it was quantised, by ONNX Runtime, without further training.")
    return "\n".join(sentences)
