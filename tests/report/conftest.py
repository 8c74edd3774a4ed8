"""A run as its report sees it, made up but plausible."""

import numpy as np
import pandas as pd
import pytest

from hwnas.report.data import ReportData


def make_data(
    seed: int = 0, evaluations: int = 200, budgets: tuple[float, ...] = (0.5, 0.8, 1.2)
) -> ReportData:
    rng = np.random.default_rng(seed)
    macs = np.sort(rng.uniform(4e6, 30e6, evaluations)).round()
    latency = macs / 2.1e7 * rng.normal(1, 0.06, evaluations) + 0.1
    accuracy = 97 - 9 * np.exp(-latency / 0.35) - rng.gamma(1.5, 0.35, evaluations)
    predicted = accuracy + rng.normal(0, 0.25, evaluations)
    order = rng.permutation(evaluations)
    frame = pd.DataFrame(
        {
            "id": [f"{n:012x}" for n in rng.integers(2**47, size=evaluations)],
            "accuracy": accuracy,
            "latency_ms": latency,
            "macs": macs,
            "params": (macs / 15).round(),
            "status": "ok",
            "feasible": latency <= max(budgets, default=np.inf),
            "predicted_accuracy": predicted,
        }
    ).iloc[order]
    frame = frame.reset_index(drop=True)
    frame.loc[: evaluations // 8, "predicted_accuracy"] = np.nan
    frame.loc[evaluations // 2, ["status", "accuracy"]] = ["failed", np.nan]

    models, best = [], -np.inf
    for row in frame[frame["feasible"]].dropna(subset=["accuracy"]).sort_values("latency_ms").itertuples():
        if row.accuracy <= best:
            continue
        best = row.accuracy
        measured = row.latency_ms * rng.normal(1.01, 0.02)
        models.append(
            {
                "id": row.id,
                "architecture": {"stage1.depth": 2},
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
    quality = {"networks": 12, "mape": 2.1, "kendall_tau": 0.88, "within_10pct": 100.0}
    calibration = [
        {"space": "mobilenetv3-1a2b3c", "resolution": r, "precision": "fp32", "slope": 0.58,
         "intercept_ms": 0.02, "networks": 12, "held_out": quality,
         "macs_baseline": {"mape": mape, "kendall_tau": 0.7},
         "repeatability_cv": 1.9}
        for r, mape in ((32, 6.8), (48, 2.2))
    ]  # fmt: skip
    return ReportData(
        name="digits",
        objectives=("accuracy", "latency_ms"),
        config={"name": "digits", "seed": 0, "latency": {"budgets_ms": list(budgets)}},
        environment={
            "date": "2026-03-14 15:09 UTC",
            "cpu": "Intel(R) Xeon(R) Platinum 8480+",
            "cores": 2,
            "versions": {"python": "3.11.2", "torch": "2.9.0", "onnxruntime": "1.31.0", "hwnas": "0.1.0"},
            "git_commit": None,
        },
        evaluations=frame,
        models=models,
        budgets_ms=chosen,
        hypervolume={
            "linas": np.maximum.accumulate(20 - 14 * np.exp(-n / 12) - 2 / n).tolist(),
            "random": np.maximum.accumulate(18.6 - 9 * np.exp(-n / 40)).tolist(),
        },
        reference="accuracy 80 %, latency 1.2 ms",
        training=training,
        table={
            "device": {"name": "xeon-8480", "cpu": "Intel(R) Xeon(R) Platinum 8480+", "cores": 2},
            "runtime": {"name": "onnxruntime", "version": "1.31.0", "threads": 1, "batch_size": 1},
            "protocol": {"statistic": "cpu-trimmed-mean", "rounds": 48, "warmup_runs": 5, "kept_runs": 5},
            "calibration": calibration,
            "operators": [{"key": f"conv-{n}", "ms": 0.01, "std_ms": 0.001, "count": 48} for n in range(93)],
        },
        seconds={"train": 1412.0, "profile": 38.2, "search": 214.0, "export": 17.5, "verify": 41.0},
    )  # fmt: skip


@pytest.fixture
def data() -> ReportData:
    return make_data()
