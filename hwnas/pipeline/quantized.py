"""Models in 8 bits: a candidate beside each exported model; one worth having is a model of its own."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hwnas.errors import EvaluationError
from hwnas.export.compare import compare
from hwnas.export.verify import added
from hwnas.latency.measure import Device
from hwnas.pipeline.entries import costs_of, model_folder, read_entry
from hwnas.progress import Progress
from hwnas.store import read_bytes, remove_file, remove_folder, write_bytes

if TYPE_CHECKING:  # torch is loaded by the stages that need it
    from hwnas.pipeline.job import Run

log = logging.getLogger("hwnas")


def int8_name(name: str) -> str:
    """The id of a model in 8 bits, of that of the model that it is made of."""
    return f"{name}-int8"


def candidate_file(name: str) -> str:
    """The file of a model's candidate in 8 bits; a measurement says if it becomes a model."""
    return f"int8/{name}.onnx"


def forget_int8(run: Run, name: str) -> None:
    """Remove the candidate of a model, and what became of it."""
    remove_file(run.directory / candidate_file(name))
    remove_folder(model_folder(run, int8_name(name)))


def quantize_model(run: Run, name: str, data: bytes, resolution: int) -> dict[str, Any] | None:
    """The `int8` of the entry of an exported model, not measured yet, and its candidate's file.

    None, with a warning, if no model in 8 bits can be evaluated.
    """
    from hwnas.export.quantize import candidate_of

    splits = run.data("train"), run.data("validation"), run.data("test")
    allowed = run.config.export.max_accuracy_loss
    try:
        int8, made = candidate_of(data, splits, resolution, allowed, run.config.seed)
    except EvaluationError as error:
        log.warning("export: model %s has no candidate in 8 bits: %s", name, error)
        return None
    write_bytes(run.directory / candidate_file(name), made)
    return int8


def candidates_of(run: Run, names: Sequence[str]) -> dict[str, bytes]:
    """The candidates in 8 bits that there are of models, by the models' ids."""
    paths = {name: run.directory / candidate_file(name) for name in names}
    return {name: read_bytes(path) for name, path in paths.items() if path.exists()}


def decide_int8(
    run: Run,
    entries: Sequence[dict[str, Any]],
    pairs: Mapping[str, tuple[bytes, bytes]],
    verifications: Mapping[str, Mapping[str, Any]],
    device: Device,
    progress: Progress,
) -> list[dict[str, Any]]:
    """The entries of the models in 8 bits that are worth having, whose files are written.

    `pairs` are models, each with its candidate, and `verifications` those of the candidates, by the models'
    ids. `int8` of the models' `entries` says what became of each.
    """
    if not pairs:
        return []
    from hwnas.export.metadata import int8_properties
    from hwnas.export.onnx import with_metadata
    from hwnas.export.quantize import decide

    found, kept = compare(pairs, device, run.config.latency.verify_rounds, run.config.seed, progress), []
    for entry in entries:
        name = entry["id"]
        if name not in pairs:
            continue
        folder = model_folder(run, int8_name(name))
        entry["int8"] = decide(entry["int8"], found[name])
        if entry["int8"]["status"] != "kept":
            remove_folder(folder)
            continue
        before = read_entry(run, int8_name(name)) if (folder / "architecture.json").exists() else {}
        costs = costs_of(run, run.space.architecture(entry["architecture"]), "int8")
        own = _entry(entry, costs, verifications[name], before)
        write_bytes(folder / "model.onnx", with_metadata(pairs[name][1], int8_properties(own)))
        kept.append(own)
    log.info("verify: %d of %d models in 8 bits are kept", len(kept), len(pairs))
    return kept


def _entry(
    parent: Mapping[str, Any],
    costs: Mapping[str, int],
    verification: Mapping[str, Any],
    before: Mapping[str, Any],
) -> dict[str, Any]:
    """The entry of a model in 8 bits that was measured; `before` is that of an earlier verification."""
    int8 = parent["int8"]
    latency = {key: verification[key] for key in ("latency_ms", "latency_ci_ms")}
    return {
        "id": int8_name(parent["id"]),
        "architecture": parent["architecture"],
        "precision": "int8",
        "validation_accuracy": int8["validation_accuracy"]["int8"],
        "test_accuracy": int8["test_accuracy"]["int8"],
        **({"class_accuracy": int8["class_accuracy"]} if "class_accuracy" in int8 else {}),
        "predicted": {"accuracy": None, "latency_ms": None},  # the search knew nothing of it
        "measured": {**before.get("measured", {}), **latency},
        **costs,
        "budget_ms": None,
        "quantized": {
            "from": parent["id"],
            **{name: int8[name] for name in ("calibration", "excluded", "speedup", "speedup_ci")},
        },
        "status": "exported",
        "verifications": added(before.get("verifications", []), verification),
    }
