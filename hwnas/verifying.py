"""The models of a run measured on a device that is not the run's own; what the run says of its own stays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hwnas.errors import StoreError
from hwnas.export.verify import added, measure_models, same_device
from hwnas.latency.devices import get_device
from hwnas.latency.measure import Device
from hwnas.pipeline import Run, amend, check_data, check_unlocked, locked, model_folder, read_entry
from hwnas.progress import Progress, silent
from hwnas.store import read_bytes


def device_of(run: Run, name: str, cores: Sequence[int] | None = None) -> tuple[Device, bool]:
    """A device by name, with as many threads as the run's own, and whether it is the run's own.

    `cores` are those that may be used, by default those of the highest capacity.
    """
    run.outputs("profile")
    device = get_device(name, run.latency.runtime["threads"] or 1, cores)
    return device, same_device(device.identity, run.latency.device, run.latency.runtime)


def verify_elsewhere(run: Run, name: str, device: Device, progress: Progress = silent) -> dict[str, Any]:
    """Measure a run's models together on another device, by the protocol of the run's own verification.

    Each entry gets it as `measured["latency_ms@DEVICE"]` and `measured["latency_ci_ms@DEVICE"]`, and as one
    more of its `verifications`. DEVICE is `name`, or for one over ssh what the board calls itself. Plain data
    on what was found is returned. StoreError if no models are exported, or another process is at work here.
    """
    check_unlocked(run.directory)
    if run.store.stage("export") is None:
        raise StoreError(
            f"{run.directory} has no exported models yet; run: {run.invocation.finish('export')}"
        )
    check_data(run)
    verified = run.store.stage("verify") is not None
    ids = [model["id"] for model in run.models] if verified else run.outputs("search")["front"]
    models = {model: read_bytes(model_folder(run, model) / "model.onnx") for model in ids}
    entries = [read_entry(run, model) for model in ids]
    with locked(run.directory):
        return _verified(run, name, device, models, entries, progress)


def _verified(
    run: Run,
    name: str,
    device: Device,
    models: dict[str, bytes],
    entries: list[dict[str, Any]],
    progress: Progress,
) -> dict[str, Any]:
    """Measure exported models by id, and add what was measured to their entries."""
    found = measure_models(models, device, run.config.latency.verify_rounds, (), run.config.seed, progress)
    label = device.identity.device["name"] if name.startswith("ssh://") else name
    for entry in entries:
        verification = found[entry["id"]]
        entry["verifications"] = added(entry.get("verifications", []), verification)
        for key in ("latency_ms", "latency_ci_ms"):
            entry["measured"][f"{key}@{label}"] = verification[key]
    amend(run, entries)
    rows = [
        {
            "id": entry["id"],
            "accuracy": entry["validation_accuracy"],
            "own_latency_ms": entry["measured"]["latency_ms"],
            **{key: entry["verifications"][-1][key] for key in ("latency_ms", "latency_ci_ms", "drift")},
        }
        for entry in entries
    ]
    identity, noise = device.identity, next(iter(found.values()))["noise"]
    about = {"name": label, "device": identity.device, "runtime": identity.runtime, "noise": noise}
    return {"run": str(run.directory), "measured_on": about, "models": rows}
