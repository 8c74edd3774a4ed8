"""Whole run folders as this hwnas writes them: python -m tests.reliability.make_runs NAME

Writes tests/reliability/runs/NAME, from which test_kept_runs continues:

- ``precisions``: a searched precision, a random baseline, and a measured table
- ``board``: a search for a second device, which refers to the supernet of ``precisions``
- ``learnt``: a learned latency predictor in place of a table
- ``table.json``: the table of ``precisions``
- ``results.json``: the results of a bundle for the space of ``learnt``

A new folder is made before a format changes. Existing folders stay as they are.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.conftest import write_config
from tests.reliability.make_fixtures import SMALL

RUNS = Path(__file__).parent / "runs"
LEFT_OUT = (".lock", "checkpoint.safetensors", "hwnas.log", "report.html", "figures")
PRECISIONS: dict[str, Any] = {
    **SMALL,
    "space": {**SMALL["space"], "precisions": ["fp32", "int8"]},
    "search": {**SMALL["search"], "random_baseline": True},
}
LEARNT: dict[str, Any] = {
    **SMALL,
    "search": {**SMALL["search"], "objectives": ["accuracy", "latency_ms", "params"]},
    "latency": {"source": "predictor", "predictor_networks": 10},
}


def run_hwnas(*arguments: object) -> None:
    """Run the command of this hwnas; a failure ends the script."""
    subprocess.run([sys.executable, "-m", "hwnas", *map(str, arguments)], check=True, timeout=900)


def make(name: str) -> None:
    """Make the runs, and copy them without the files that a run does not read again."""
    target = RUNS / name
    target.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        for run, sections in {"precisions": PRECISIONS, "learnt": LEARNT}.items():
            (work / f"{run}-config").mkdir()
            config = write_config(work / f"{run}-config", **sections)
            run_hwnas("run", config, "--run-dir", work / run)
        table = shutil.copy(work / "precisions" / "latency_table.json", work / "table.json")
        shutil.copy(table, target / "table.json")
        run_hwnas("search", work / "precisions", "--table", table, "--run-dir", work / "board")
        run_hwnas("profile", config, "--bundle", work / "bundle.zip", "--run-dir", work / "unused")
        subprocess.run([sys.executable, work / "bundle.zip"], check=True, cwd=work, timeout=900)
        shutil.copy(work / "results.json", target / "results.json")
        for run in ("precisions", "board", "learnt"):
            shutil.copytree(work / run, target / run, ignore=shutil.ignore_patterns(*LEFT_OUT))


if __name__ == "__main__":
    make(sys.argv[1])
