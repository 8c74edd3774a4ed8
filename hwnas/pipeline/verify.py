"""Verify: the models measured on the device, and the front of what was measured."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hwnas.export.sums import SUMS_FILE
from hwnas.export.verify import Verdict, added, last_on, measure_models, most_accurate, stable, verdict
from hwnas.latency.measure import Device
from hwnas.pipeline.entries import (
    PARETO_SCHEMA,
    check_data,
    evaluation_of,
    model_folder,
    read_entry,
    write_entry,
)
from hwnas.pipeline.export import export_model
from hwnas.pipeline.profile import cores_inputs, own_device
from hwnas.pipeline.quantized import candidates_of, decide_int8, int8_name
from hwnas.progress import Progress
from hwnas.searching.pareto import ParetoFront
from hwnas.spaces import Architecture
from hwnas.store import file_digest, read_bytes, write_json

if TYPE_CHECKING:
    from hwnas.pipeline.job import Run

log = logging.getLogger("hwnas")

SPARES = 5  # further models that are measured when one misses its budget


def inputs(run: Run) -> dict[str, Any]:
    latency = run.config.latency
    return {
        "models": run.outputs("export")["files"],
        "budgets_ms": list(latency.budgets_ms),
        "rounds": latency.verify_rounds,
        **cores_inputs(run),
    }


def check(run: Run, pending: Sequence[str], again: bool) -> None:
    """Check the data and, if nothing is made before, that the run's device can be reached.

    Args:
        run: The run.
        pending: Stages that are made earlier in the same command.
        again: Whether the models are verified before.
    """
    check_data(run)
    if not pending:
        own_device(run)


def make(run: Run, progress: Progress) -> tuple[dict[str, Any], list[str]]:
    budgets_ms = run.config.latency.budgets_ms
    device = own_device(run)
    tuned = finetuned_models(run)
    names = [*run.outputs("search")["front"], *tuned]
    entries = measure_entries(run, names, device, progress)
    for budget_ms in budgets_ms:
        promised = most_accurate(entries, budget_ms, "predicted")
        if promised is not None and _verdict(_entry(entries, promised), budget_ms) != "met":
            spares = _spares(run, entries, budget_ms)
            for arch in spares:
                export_model(run, arch)
            entries += measure_entries(run, [arch.id for arch in spares], device, progress)
    kept = {most_accurate(entries, budget_ms, "measured") for budget_ms in budgets_ms}
    evaluations = [evaluation_of(run, entry) for entry in entries]
    front = ParetoFront.of(evaluations, run.objectives)
    kept |= {
        entry["id"] for entry, evaluation in zip(entries, evaluations, strict=True) if evaluation in front
    }
    kept |= {*tuned, *tuned.values()}  # a model stays beside what it was made into
    kept |= {entry["quantized"]["from"] for entry in entries if entry["id"] in kept and "quantized" in entry}
    for entry in entries:
        judge_entry(entry, budgets_ms)
        stays = entry["id"] in kept
        if entry["status"] in ("verified", "unstable") and not stays:
            entry["status"] = "dominated"
        write_entry(run, entry)
    _warn_of_drift(entries)
    budgets = [
        {
            "budget_ms": budget_ms,
            "model": most_accurate(entries, budget_ms, "measured"),
            "missed": [entry["id"] for entry in entries if _misses(entry, budget_ms)],
            "undecidable": [e["id"] for e in entries if _verdict(e, budget_ms) == "undecidable"],
        }
        for budget_ms in budgets_ms
    ]
    return {"budgets": budgets}, _write_front(run, [e for e in entries if e["status"] != "dominated"])


def finetuned_models(run: Run) -> dict[str, str]:
    """The ids of models that were fine-tuned from this supernet, each with that of the model it was."""
    found, checksum = {}, run.outputs("train")["checksum"]
    for path in sorted((run.directory / "models").glob(f"*-ft*/{SUMS_FILE}")):  # with it a folder is whole
        made = read_entry(run, path.parent.name).get("finetuned")
        if made is not None and made["supernet"] == checksum:
            found[path.parent.name] = str(made["from"])
    return found


def judge_entry(entry: dict[str, Any], budgets_ms: Sequence[float]) -> None:
    """Say of a measured entry which budget it keeps, and by that and its last verification its status."""
    verdicts = [_verdict(entry, budget_ms) for budget_ms in budgets_ms]
    entry["budget_ms"] = next((b for b, v in zip(budgets_ms, verdicts, strict=True) if v == "met"), None)
    entry["status"] = "verified" if stable(entry["verifications"][-1]) else "unstable"
    if budgets_ms and entry["budget_ms"] is None:
        entry["status"] = "undecidable" if "undecidable" in verdicts else "missed"


def _write_front(run: Run, entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """pareto.json of entries; the files that the verify stage answers for."""
    kept = sorted(entries, key=lambda entry: float(entry["measured"]["latency_ms"]))
    write_json(run.directory / "pareto.json", {"schema": PARETO_SCHEMA, "models": kept})
    made = ("architecture.json", "README.md", SUMS_FILE)
    files = [f"models/{entry['id']}/{name}" for entry in kept for name in made]
    files += [f"models/{entry['id']}/model.onnx" for entry in kept if "quantized" in entry]
    return ["pareto.json", *files]


def amend(run: Run, entries: Sequence[Mapping[str, Any]], gone: str | None = None) -> None:
    """Write entries that changed, or are new, into a `locked` run; the report is then to be made anew.

    `gone` is the id of a model that is to be one no more, and neither is what was made of it in 8 bits. What
    is verified stays so; if this is killed in the middle, it is verified again.
    """
    done = run.store.stage("verify")
    run.store.reopen_stages(["verify", "report"])
    for entry in entries:
        write_entry(run, entry)
    if done is None:
        return
    changed = [gone, *(entry["id"] for entry in entries)]
    models = {  # what is made of the changed ones in 8 bits is among the new ones, or gone
        entry["id"]: entry
        for entry in run.models
        if entry["id"] != gone and ("quantized" not in entry or entry["quantized"]["from"] not in changed)
    }
    models |= {str(entry["id"]): dict(entry) for entry in entries}
    files = _write_front(run, list(models.values()))
    budgets = [
        {**row, "model": most_accurate(list(models.values()), row["budget_ms"], "measured")}
        for row in done["outputs"]["budgets"]
    ]
    digests = {file: file_digest(run.directory / file) for file in files}
    outputs = {**done["outputs"], "budgets": budgets, "files": digests}
    run.store.finish_stage("verify", done["inputs"], outputs)


def measure_entries(
    run: Run, names: Sequence[str], device: Device, progress: Progress
) -> list[dict[str, Any]]:
    """The entries of exported models with their latency on the run's device, and whether it repeats.

    Behind them those of the models in 8 bits that are worth having.
    """
    latency = run.config.latency
    models = {name: read_bytes(model_folder(run, name) / "model.onnx") for name in names}
    candidates = candidates_of(run, names)
    all_models = {**models, **{int8_name(name): data for name, data in candidates.items()}}
    found = measure_models(
        all_models, device, latency.verify_rounds, latency.budgets_ms, run.config.seed, progress
    )
    entries = []
    for name in names:
        entry = read_entry(run, name)
        entry["measured"] |= {key: found[name][key] for key in ("latency_ms", "latency_ci_ms")}
        entry["verifications"] = added(entry.get("verifications", []), found[name])
        entries.append(entry)
    for reason in entries[0]["verifications"][-1]["noise"] if entries else []:
        log.warning("verify: the measurement was disturbed: %s", reason)
    pairs = {name: (models[name], data) for name, data in candidates.items()}
    verifications = {name: found[int8_name(name)] for name in candidates}
    return entries + decide_int8(run, entries, pairs, verifications, device, progress)


def _warn_of_drift(entries: Sequence[Mapping[str, Any]]) -> None:
    """Say which latencies are not what they were, and whether all have moved together."""
    found = [entry["verifications"][-1] for entry in entries]
    moved = [(e["id"], v) for e, v in zip(entries, found, strict=True) if v["drift"] is not None]
    for name, now in moved:
        before = last_on(_entry(entries, name)["verifications"][:-1], now["device"], now["runtime"])
        assert before is not None
        versions = [v["runtime"]["version"] for v in (before, now)]
        other = f", then with version {versions[0]} of the runtime" if versions[0] != versions[1] else ""
        log.warning(
            "verify: %s takes %.4g ms, %+.1f %% since %s, more than both intervals and noise allow%s",
            name,
            now["latency_ms"],
            100 * now["drift"],
            before["date"],
            other,
        )
    if len(moved) > 1 and len(moved) == len(entries):
        median = float(np.median([now["drift"] for _, now in moved]))
        log.warning("verify: all models have moved, by %+.1f %% in the median: the device has", 100 * median)


def _spares(run: Run, entries: Sequence[Mapping[str, Any]], budget_ms: float) -> list[Architecture]:
    """The next most accurate architectures for a budget that its promised model misses.

    Only those that are more accurate than what keeps the budget already, and that the table, corrected by
    what was measured of the models that keep it, says will keep it.
    """
    known = {entry["id"] for entry in entries}
    kept_by = [e for e in entries if "quantized" not in e and _verdict(e, budget_ms) == "met"]
    ratios = [entry["measured"]["latency_ms"] / entry["predicted"]["latency_ms"] for entry in kept_by]
    ratio = float(np.median(ratios)) if ratios else 1.0
    kept = most_accurate(entries, budget_ms, "measured")
    least = _entry(entries, kept)["validation_accuracy"] if kept is not None else -np.inf
    candidates = [
        e
        for e in run.searched.evaluations
        if e.status == "ok"
        and run.keeps_bounds(e)
        and e.architecture.id not in known
        and e.metrics["latency_ms"] * max(ratio, 1.0) <= budget_ms
        and e.metrics["accuracy"] > least
    ]
    candidates.sort(key=lambda e: -e.metrics["accuracy"])
    return [e.architecture for e in candidates[:SPARES]]


def _entry(entries: Sequence[Mapping[str, Any]], name: str) -> Mapping[str, Any]:
    return next(entry for entry in entries if entry["id"] == name)


def _verdict(entry: Mapping[str, Any], budget_ms: float) -> Verdict:
    return verdict(entry["measured"]["latency_ci_ms"], budget_ms)


def _misses(entry: Mapping[str, Any], budget_ms: float) -> bool:
    predicted = entry["predicted"]["latency_ms"]
    promised = predicted is not None and predicted <= budget_ms
    return bool(promised and _verdict(entry, budget_ms) == "missed")
