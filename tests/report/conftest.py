"""A run as its report sees it, made up but plausible."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from hwnas.latency.table import Entry, LatencyTable
from hwnas.report.data import ReportData, operator_times
from hwnas.report.html import render
from hwnas.spaces import NetworkSpace, get_space

KINDS = {"kernel": [3, 5], "expand": [2, 3]}
STAGES = [
    {"block": "fused", "width": [8, 16], "depth": [1, 2], "kernel": 3, "expand": [1, 2, 3]},
    {"block": "mbconv", "width": [16, 24, 32], "depth": [1, 2, 3], "stride": 2, **KINDS},
    {"block": "mbconv", "width": [32, 48], "depth": [1, 2], "stride": 2, "se": True, **KINDS},
]


def make_space() -> NetworkSpace:
    return get_space(
        "mobilenetv3", resolutions=[32, 48], stem={"width": 16}, stages=STAGES, head={"width": 96}, classes=10
    )


def make_table(space: NetworkSpace) -> LatencyTable:
    """Each operator takes a while to start and then its MACs."""
    quality = {"networks": 12, "mape": 2.1, "kendall_tau": 0.88, "within_10pct": 100.0}
    calibration = [
        {"space": space.id, "resolution": r, "precision": "fp32", "slope": 0.9, "intercept_ms": 0.02,
         "networks": 12, "held_out": quality, "macs_baseline": {"mape": mape, "kendall_tau": 0.7},
         "repeatability_cv": 1.9}
        for r, mape in ((32, 6.8), (48, 2.2))
    ]  # fmt: skip
    return LatencyTable(
        {"name": "xeon-8480", "cpu": "Intel(R) Xeon(R) Platinum 8480+", "cores": 2},
        {"name": "onnxruntime", "version": "1.31.0", "threads": 1, "batch_size": 1, "precisions": ["fp32"]},
        {"statistic": "cpu-trimmed-mean", "rounds": 48, "warmup_runs": 5, "kept_runs": 5, "noisy": False,
         "preempted": 0.004, "taken": 0.02, "cold_ratio": 7.9, "seconds": 61.2},
        calibration,
        {op.key: Entry(0.015 + op.macs / 2.5e7, 0.001, 48) for op in space.all_operators()},
    )  # fmt: skip


def in_8_bits(model: dict[str, Any]) -> dict[str, Any]:
    """A model of 8 bits, as an entry of its own."""
    latency = model["measured"]["latency_ms"]
    return {
        **model,
        "id": f"{model['id']}-int8",
        "precision": "int8",
        "validation_accuracy": model["validation_accuracy"] - 0.1,
        "predicted": {"accuracy": None, "latency_ms": None},
        "measured": {"latency_ms": 0.8 * latency, "latency_ci_ms": [0.79 * latency, 0.81 * latency]},
        "quantized": {
            "from": model["id"],
            "calibration": "percentile",
            "excluded": ["classifier"],
            "speedup": 1.25,
            "speedup_ci": [1.22, 1.28],
        },
    }


def finetuned(model: dict[str, Any]) -> dict[str, Any]:
    """A fine-tuned model, as an entry of its own."""
    latency = 1.001 * model["measured"]["latency_ms"]
    return {
        **model,
        "measured": {"latency_ms": latency, "latency_ci_ms": [0.99 * latency, 1.01 * latency]},
        "id": f"{model['id']}-ft20",
        "validation_accuracy": model["validation_accuracy"] + 0.3,
        "finetuned": {"from": model["id"], "epochs": 20, "gain": 0.3, "gain_ci": [0.1, 0.5]},
    }


def verifications(
    model: dict[str, Any], table: LatencyTable, rng: np.random.Generator
) -> list[dict[str, Any]]:
    """Three, the second on a board, the last some weeks later and slower."""
    ms = model["measured"]["latency_ms"]
    own = {"device": dict(table.device), "runtime": dict(table.runtime)}
    board = {"device": {**table.device, "name": "board"}, "runtime": dict(table.runtime)}
    return [
        {
            **place,
            "date": f"2026-03-{day:02}T15:09:26+00:00",
            "latency_ms": ms * factor,
            "latency_ci_ms": [ms * factor * 0.99, ms * factor * 1.01],
            "passes": 6,
            "noise": noise,
            "drift": drift,
        }
        for day, factor, place, noise, drift in (
            (14, rng.normal(1, 0.005) / 1.07, own, [], None),
            (20, 9.0, board, ["12 % of runs preempted"], None),
            (28, 1.0, own, [], 0.07),
        )
    ]


def make_data(
    seed: int = 0, evaluations: int = 100, budgets: tuple[float, ...] = (0.2, 0.3, 0.5)
) -> ReportData:
    rng = np.random.default_rng(seed)
    space = make_space()
    table = make_table(space)
    genotypes = np.unique(space.sample(2 * evaluations, rng).genotypes, axis=0)
    archs = space.architectures(rng.permutation(genotypes)[:evaluations])
    latency, macs = table.latency_ms(archs), space.macs(archs)
    accuracy = 97 - 25 * np.exp(-latency / 0.11) - rng.gamma(1.5, 0.6, evaluations)
    frame = pd.DataFrame(
        {
            "id": [arch.id for arch in archs],
            "accuracy": accuracy,
            "latency_ms": latency,
            "macs": macs,
            "params": space.params(archs),
            "status": "ok",
            "feasible": latency <= max(budgets, default=np.inf),
            "predicted_accuracy": accuracy + rng.normal(0, 0.4, evaluations),
        }
    )
    frame.loc[: evaluations // 8, "predicted_accuracy"] = np.nan
    frame.loc[evaluations // 2, ["status", "accuracy"]] = ["failed", np.nan]

    by_id = {arch.id: arch for arch in archs}
    models, best = [], -np.inf
    for row in frame[frame["feasible"]].dropna(subset=["accuracy"]).sort_values("latency_ms").itertuples():
        if row.accuracy <= best:
            continue
        best = row.accuracy
        measured = row.latency_ms * rng.normal(1.01, 0.02)
        models.append(
            {
                "id": row.id,
                "architecture": by_id[row.id].values,
                "validation_accuracy": row.accuracy,
                "test_accuracy": row.accuracy - 0.4 + rng.normal(0, 0.1),
                "predicted": {"accuracy": row.predicted_accuracy, "latency_ms": row.latency_ms},
                "measured": {"latency_ms": measured, "latency_ci_ms": [measured * 0.993, measured * 1.007]},
                "macs": int(row.macs),
                "params": int(row.params),
                "budget_ms": next((b for b in budgets if measured <= b), None),
                "status": "verified",
            }
        )
    models += [in_8_bits(models[2]), finetuned(models[3])]
    for model in models:
        model["verifications"] = verifications(model, table, rng)
    chosen = {b: max((m for m in models if m["budget_ms"] == b), key=lambda m: m["validation_accuracy"])["id"]
              for b in budgets}  # fmt: skip
    n = np.arange(1, evaluations + 1)
    steps = np.arange(1, 601)
    training = [
        {"step": int(s), "loss": float(2.2 * np.exp(-s / 150) + 0.6 + rng.normal(0, 0.08))} for s in steps
    ]
    for row in training[49::50]:
        row["largest_accuracy"] = 97 - 60 * np.exp(-row["step"] / 120)
        row["smallest_accuracy"] = 93 - 65 * np.exp(-row["step"] / 140)
    return ReportData(
        name="digits",
        objectives=("accuracy", "latency_ms"),
        config={
            "name": "digits",
            "seed": 0,
            "data": {"name": "cluttered-digits"},
            "training": {"strategy": {"name": "sandwich"}, "loss": "kd", "steps": 600, "learning_rate": 0.2},
            "latency": {"budgets_ms": list(budgets)},
            "search": {"strategy": "linas", "evaluations": evaluations, "predictor": None},
        },
        environment={
            "date": "2026-03-14T15:09:26+00:00",
            "cpu": "Intel(R) Xeon(R) Platinum 8480+",
            "cores": 2,
            "versions": {"python": "3.11.2", "torch": "2.9.0", "onnxruntime": "1.31.0", "hwnas": "0.1.0"},
            "git_commit": None,
        },
        evaluations=frame,
        models=models,
        architectures={arch.id: arch.values for arch in archs} | {m["id"]: m["architecture"] for m in models},
        operators={
            m["id"]: operator_times(
                space, by_id[m["id"].partition("-")[0]], None if "quantized" in m else table
            )
            for m in models
        },
        files={m["id"]: ["README.md", "architecture.json", "model.onnx"] for m in models},
        knee=models[len(models) // 3]["id"],
        budgets_ms=chosen,
        hypervolume={
            "linas": np.maximum.accumulate(20 - 14 * np.exp(-n / 12) - 2 / n).tolist(),
            "random": np.maximum.accumulate(18.6 - 9 * np.exp(-n / 40)).tolist(),
        },
        reference="accuracy 0, latency_ms 0.5",
        training=training,
        table=table.to_dict(),
        verdict=table.verdict(),
        dataset={
            "classes": [f"digit {n}" for n in range(10)],
            "images": {"train": 6000, "validation": 2000, "test": 4000},
        },
        seconds={"train": 1412.0, "profile": 38.2, "search": 214.0, "export": 17.5, "verify": 41.0},
    )  # fmt: skip


@pytest.fixture(scope="session")
def data() -> ReportData:
    return make_data()


@pytest.fixture(scope="session")
def html(data: ReportData) -> str:
    """The page of `data`."""
    return render(data)
