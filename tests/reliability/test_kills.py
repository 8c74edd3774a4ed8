"""kill -9 at any moment: no file is corrupt, nothing committed is lost, and the run ends as if left alone.

A process is forked for each attempt from one that has loaded everything. It goes on with the run of the one
that was killed before it, and is killed itself: at a random moment after a stage began, or by itself at a
random step of writing, of artefacts and of run.db. HWNAS_KILLS is how many there are.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import shutil
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest
import safetensors
from PIL import Image

from hwnas.config import load_config
from hwnas.latency.devices import get_device
from hwnas.latency.table import Entry, LatencyTable
from hwnas.networks.supernet import load_supernet
from hwnas.pipeline import open_run
from hwnas.store import file_digest, read_json
from tests.conftest import write_config
from tests.reliability import victim
from tests.reliability.victim import work

KILLS = int(os.environ.get("HWNAS_KILLS", "200"))
STAGES = ("profile", "train", "search", "export", "verify")
BEFORE = ""  # the first stage: the folder and run.db are made
PROFILED = ("profile",)  # a run of its own, which measures the table; the other one is given it
TARGETS = {PROFILED: ("profile",), STAGES: ("train", "search", "search", "export", "verify")}
MOST_S = 300  # for what takes seconds; generous, for machines that do other work

forked = multiprocessing.get_context("forkserver")
forked.set_forkserver_preload([victim.__name__, "onnxruntime", "sklearn.datasets", "hwnas.training.data"])


# ---- a run and its attempts ----------------------------------------------------------------------


@dataclass
class Job:
    """A run that is made in attempts, each of which goes on where the one before was killed."""

    config: Path
    folder: Path
    stages: Sequence[str]
    stored: dict[tuple[str, str], float] = field(default_factory=dict)  # what the store said it has
    attempts: int = 0

    def attempt(
        self,
        until: str | None = None,
        strike: tuple[str, int] | None = None,
        after: tuple[str, float] | None = None,
        stop_at: str | None = None,
    ) -> tuple[list[dict[str, Any]], bool]:
        """Go on with the run until a stage is made, or a kill: at a step of writing in a stage, so long
        after a stage began, or when a stage begins. The notes of it, and whether it was killed.
        """
        self.attempts += 1
        notes = self.folder.with_name(f"{self.folder.name}.notes-{self.attempts}")
        notes.touch()
        stages = self.stages[: self.stages.index(until) + 1 if until else None]
        arguments = (self.config, self.folder, stages, notes, strike, stop_at)
        process = forked.Process(target=work, args=arguments)
        process.start()
        if stop_at is not None:
            after = (stop_at, 0.0)
        if after is not None:
            stage, seconds = after
            while process.is_alive() and {"stage": stage} not in noted(notes):
                time.sleep(0.005)
            process.join(seconds)
            process.kill()
        process.join(MOST_S)
        assert process.exitcode in (0, -signal.SIGKILL), f"{self.folder}: exit code {process.exitcode}"
        said = noted(notes)
        self._check_evaluations(said)
        return said, process.exitcode != 0

    def _check_evaluations(self, said: Sequence[dict[str, Any]]) -> None:
        """At most one evaluation was begun and is lost, and none was made again that was stored."""
        begun = [note["begun"] for note in said if "begun" in note]
        stored = {tuple(note["stored"][:2]): note["stored"][2] for note in said if "stored" in note}
        assert not {key for key, _ in self.stored} & set(begun)
        assert len(begun) == len(set(begun))
        assert len(begun) - len(stored) in (0, 1)
        self.stored |= stored

    def check(self) -> None:
        """No file is corrupt, what was stored is there, and finished stages are as they were."""
        for path in self.folder.rglob("*"):
            if path.is_file() and not path.name.startswith((".", "run.db")):
                check_whole(path)
        with contextlib.closing(copy_of_store(self.folder)) as db:
            assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert db.execute("PRAGMA foreign_key_check").fetchall() == []
            if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'stages'").fetchall():
                return  # killed before it was made
            rows = db.execute("SELECT architecture, metric, value FROM measurements").fetchall()
            assert {(key, metric): value for key, metric, value in rows}.items() >= self.stored.items()
            for (outputs,) in db.execute("SELECT outputs FROM stages"):
                for file, sha256 in json.loads(outputs)["files"].items():
                    assert file_digest(self.folder / file) == sha256, file


def noted(notes: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in notes.read_bytes().splitlines(keepends=True) if line[-1:] == b"\n"]


def copy_of_store(folder: Path) -> sqlite3.Connection:
    """run.db as a power failure would leave it: it is recovered in a copy, not for the next attempt."""
    to = folder.with_name(f"{folder.name}.copy")
    shutil.rmtree(to, ignore_errors=True)
    to.mkdir()
    for path in folder.glob("run.db*"):
        shutil.copy(path, to)
    return sqlite3.connect(to / "run.db")


def check_whole(path: Path) -> None:
    """An artefact is what was written, not part of it."""
    match path.suffix:
        case ".json" if path.name.startswith("latency_table"):
            LatencyTable.load(path)
        case ".json" if path.name == "supernet.json":
            load_supernet(path.parent)
        case ".json":
            read_json(path)
        case ".yaml":
            load_config(path)
        case ".safetensors":
            with safetensors.safe_open(path, "np") as file:
                for name in file.keys():  # noqa: SIM118 (not a dict)
                    file.get_tensor(name)
        case ".onnx":
            onnx.checker.check_model(onnx.load(path))
        case ".csv":
            assert len(pd.read_csv(path)) > 0
        case ".png":
            Image.open(path).verify()
        case ".html":
            assert path.read_text().rstrip().endswith("</html>")
        case ".log" | ".md" | "":
            path.read_text()
        case _:
            raise AssertionError(f"no check of {path}")


def found(folder: Path) -> dict[str, Any]:
    """What a run came to: every evaluation, in the order asked, the front, and the weights."""
    with contextlib.closing(copy_of_store(folder)) as db:
        return {
            "asked": db.execute("SELECT * FROM rounds ORDER BY 1, 2, 3").fetchall(),
            "predicted": db.execute("SELECT * FROM predictions ORDER BY 1, 2, 3, 4").fetchall(),
            "evaluations": db.execute(
                "SELECT architecture, metric, source, value, error FROM measurements ORDER BY 1, 2, 3"
            ).fetchall(),
            "front": db.execute(
                "SELECT json_extract(outputs, '$.front') FROM stages WHERE name = 'search'"
            ).fetchall(),
            "models": {str(p.relative_to(folder)): file_digest(p) for p in folder.rglob("model.safetensors")},
        }


def check_end(job: Job, alone: dict[str, Any]) -> None:
    """A run that was killed came to what one came to that was left alone, and left nothing behind."""
    job.check()
    assert found(job.folder) == alone
    assert list(job.folder.rglob("*.tmp")) == []
    assert not (job.folder / "latency_table.unfinished").exists()
    for sums in job.folder.rglob("SHA256SUMS"):
        for line in sums.read_text().splitlines():
            sha256, name = line.split("  ")
            assert file_digest(sums.parent / name) == sha256


def given_table(folder: Path) -> Path:
    """A table for the tiny space on this machine, by MACs: its front does not depend on a measurement."""
    space = open_run(write_config(folder), run_dir=folder / "space").space
    identity = get_device("onnxruntime", 1).identity
    runtime = {**identity.runtime, "precisions": ["fp32"], "batch_size": 1}
    operators = {op.key: Entry(1e-3 + 1e-7 * op.macs, 0.0, 1) for op in space.all_operators("fp32")}
    LatencyTable(identity.device, runtime, {"statistic": "made up"}, [], operators).save(
        folder / "given.json"
    )
    return folder / "given.json"


# ---- the tests -----------------------------------------------------------------------------------


@dataclass
class Left:
    """What a job came to when it was left alone, and how long its stages took."""

    found: dict[str, Any]
    steps: dict[str, int]
    seconds: dict[str, float]


def left_alone(config: Path, folder: Path, stages: Sequence[str]) -> Left:
    job = Job(config, folder, stages)
    said, killed = job.attempt()
    assert not killed
    job.check()
    run = open_run(config, run_dir=folder)
    seconds = run.seconds
    run.close()
    return Left(found(folder), said[-1]["steps"], seconds)


def kill_in(job: Job, stage: str, writing: bool, left: Left, rng: np.random.Generator) -> tuple[str, str]:
    """Kill a run in a stage, while it is writing or at any moment, and check what it left.

    In which stage it was killed, and at what. The stage is empty if it was made before that.
    """
    until, share = stage or job.stages[0], float(rng.uniform() ** 2)  # an attempt that goes on has less to do
    if writing:
        said, killed = job.attempt(until, strike=(stage, 1 + int(left.steps[stage] * share)))
    else:
        said, killed = job.attempt(until, after=(stage, left.seconds[stage] * share))
    job.check()
    struck = [note["struck"] for note in said if "struck" in note]
    where = [note["stage"] for note in said if "stage" in note]
    if not killed:
        return "", "made before it was killed"
    step, file = struck[0] if struck else ("", "")
    what = "run.db" if "run.db" in file else "an artefact"
    return (where or ["the opening of the run"])[-1], f"writing {what}" if step else "any moment"


def test_a_search_and_an_export_that_are_killed(tiny_run: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    for made in (*(folder / "models").iterdir(), *(folder / "figures").iterdir()):
        shutil.rmtree(made) if made.is_dir() else made.unlink()
    with contextlib.closing(sqlite3.connect(folder / "run.db")) as db, db:
        for table in ("measurements", "rounds", "predictions", "searches", "architectures"):
            db.execute(f"DELETE FROM {table}")
        db.execute("DELETE FROM stages WHERE name NOT IN ('profile', 'train')")
    job = Job(folder / "config.yaml", folder, ("search", "export"))
    for at in ({"strike": ("search", 250)}, {"stop_at": "search"}, {"strike": ("export", 60)}):
        _, killed = job.attempt(**at)
        assert killed
        job.check()
    _, killed = job.attempt()
    assert not killed
    check_end(job, found(tiny_run))


@pytest.mark.slow
@pytest.mark.timeout(6 * 3600)
def test_killed_runs_end_as_one_that_was_not(tmp_path: Path, record_property: Any) -> None:
    fast = {"rounds": 4, "calibration_networks": 3, "held_out_networks": 3}
    training = {"steps": 40, "report_every": 10}
    profiled = write_config(tmp_path, latency=fast, training=training).rename(tmp_path / "profiled.yaml")
    table = str(given_table(tmp_path))
    given = write_config(tmp_path, latency={**fast, "table": table}, training=training)
    alone = {
        PROFILED: left_alone(profiled, tmp_path / "alone-profiled", PROFILED),
        STAGES: left_alone(given, tmp_path / "alone", STAGES),
    }
    rng, ends, chain = np.random.default_rng(0), Counter[tuple[str, str]](), 0
    while sum(count for (where, _), count in ends.items() if where) < KILLS:
        chain += 1
        for config, stages in ((profiled, PROFILED), (given, STAGES)):
            left = alone[stages]
            job = Job(config, tmp_path / f"{config.stem}-{chain}", stages)
            ends[kill_in(job, BEFORE, True, left, rng)] += 1
            for stage in TARGETS[stages]:
                for writing in rng.permutation([True, False]):
                    ends[kill_in(job, stage, bool(writing), left, rng)] += 1
            _, killed = job.attempt()
            assert not killed
            if stages == STAGES:
                check_end(job, left.found)
            else:
                job.check()
                LatencyTable.load(job.folder / "latency_table.json")
            shutil.rmtree(job.folder)
    for (where, how), count in sorted(ends.items()):
        record_property(f"killed in {where}, {how}" if where else how, count)
    record_property("runs, each with a profile of its own", chain)
