"""A model's entry: what is known of it, beside its files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hwnas.export.card import model_card
from hwnas.searching.objectives import Evaluation
from hwnas.store import read_json, write_json, write_text

if TYPE_CHECKING:
    from hwnas.pipeline.job import Run


def evaluation_of(run: Run, entry: Mapping[str, Any]) -> Evaluation:
    """An entry of pareto.json as an evaluation whose latency is the measured one."""
    metrics = {
        **entry["predicted"],
        "accuracy": entry["validation_accuracy"],
        "latency_ms": entry["measured"]["latency_ms"],
        "test_accuracy": entry["test_accuracy"],
        "macs": entry["macs"],
        "params": entry["params"],
    }
    return Evaluation(run.space.architecture(entry["architecture"]), metrics)


def read_entry(run: Run, name: str) -> dict[str, Any]:
    """architecture.json of a model."""
    return read_json(run.directory / "models" / name / "architecture.json")


def write_entry(run: Run, entry: Mapping[str, Any]) -> None:
    """architecture.json, README.md and SHA256SUMS of a model."""
    from hwnas.export.folder import write_sums

    folder = run.directory / "models" / entry["id"]
    write_json(folder / "architecture.json", entry)
    data, runtime = run.data("test"), run.latency.runtime
    card = model_card(
        entry,
        experiment=run.config.name,
        objectives=run.config.search.objectives,
        input_shape=run.space.operators(run.space.architecture(entry["architecture"]))[0].in_shape,
        preparation=data.preparation,
        preprocessing={"mean": data.mean, "std": data.std},
        classes=data.classes,
        device=f"{run.latency.device['cpu']}, {runtime['name']} {runtime['version']}, "
        f"threads: {runtime['threads']}",
        batch_size=run.config.latency.batch_size,
    )
    write_text(folder / "README.md", card)
    write_sums(folder)
