"""What a run leaves behind, kept as this hwnas writes it: python -m tests.reliability.make_fixtures NAME

Writes tests/reliability/fixtures/NAME, which test_mismatch opens from then on. A new one is made when a
schema changes, before and after; those that are there stay as they are.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

import hwnas
from hwnas.choosing import choose
from hwnas.latency.table import LatencyTable
from hwnas.networks.base import tensors_digest
from hwnas.pipeline import load_run
from hwnas.predictors import get_predictor, load_predictor
from tests.conftest import write_config

FIXTURES = Path(__file__).parent / "fixtures"
KEPT = ("config.yaml", "latency_table.json", "pareto.json", "evaluations.csv", "supernet/supernet.json")
SMALL: dict[str, Any] = {
    "data": {"train": 200, "validation": 100, "test": 100},
    "space": {
        "resolutions": [12],
        "stem": {"width": 8, "activation": "relu"},
        "stages": [
            {"block": "fused", "width": 8, "depth": [1, 2], "kernel": 3, "expand": [1, 2]},
            {"block": "mbconv", "width": 8, "depth": [1, 2], "kernel": [3, 5], "expand": 2, "stride": 2},
        ],
        "head": {"width": 16, "activation": "relu"},
    },
    "training": {"steps": 4, "batch_size": 32, "warmup_steps": 1},
    "search": {"evaluations": 12, "calibration_images": 64, "random_baseline": False},
}


def said(folder: Path) -> dict[str, Any]:
    """What the artefacts of a fixture say, as plain data."""
    with closing(load_run(folder)) as run:
        front = choose(run, {})["models"]
        evaluations = [
            [e.architecture.id, e.metrics["accuracy"], e.metrics["latency_ms"], e.status]
            for e in run.searched.evaluations
        ]
        summary = run.summary()
        net = hwnas.load_supernet(folder)
        archs = net.space.sample(5, rng=0)
        return {
            "front": [[row["id"], row["accuracy"], row["latency_ms"]] for row in front],
            "evaluations": evaluations,
            "models": [model["id"] for model in summary["models"]],
            "budgets": summary["budgets"],
            "stages": sorted(run.seconds),
            "supernet": net.checksum,
            "table": LatencyTable.load(folder / "latency_table.json").latency_ms(archs).tolist(),
            "predictor": load_predictor(folder / "predictor.json").predict(np.eye(5))[0].tolist(),
            "model": {
                path.parent.name: tensors_digest(hwnas.load_model(path.parent).state_dict())
                for path in sorted(folder.glob("models/*/model.json"))
            },
        }


def make(name: str) -> None:
    """A small run and a predictor into the folder of a fixture, and what they say into said.json."""
    target = FIXTURES / name
    with tempfile.TemporaryDirectory() as temporary:
        run = hwnas.run(write_config(Path(temporary), **SMALL), run_dir=Path(temporary) / "run")
        run.close()
        model = f"models/{run.models[0]['id']}"
        files = [*KEPT, "supernet/model.safetensors"]
        files += [f"{model}/{file.name}" for file in sorted((run.directory / model).iterdir())]
        for file in files:
            (target / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(run.directory / file, target / file)
        with closing(sqlite3.connect(run.directory / "run.db")) as db:
            db.execute("VACUUM INTO ?", (str(target / "run.db"),))
    rows = np.random.default_rng(0).random((12, 5))
    predictor = get_predictor("gp", 0)
    predictor.fit(rows, rows.sum(axis=1))
    predictor.save(target / "predictor.json")
    (target / "said.json").write_text(json.dumps(said(target), indent=1) + "\n")


if __name__ == "__main__":
    make(sys.argv[1])
