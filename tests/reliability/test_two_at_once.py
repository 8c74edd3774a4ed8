"""Two processes at one run: one works, the others are refused by name or read beside it."""

from __future__ import annotations

import contextlib
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import hwnas
from hwnas import store
from hwnas.errors import StoreError
from hwnas.latency.table import LatencyTable
from hwnas.pipeline import load_run, locked
from hwnas.store import Store
from tests.conftest import Command


@pytest.fixture
def copy(tiny_run: Path, tmp_path: Path) -> Path:
    """A copy of the finished tiny run."""
    return Path(shutil.copytree(tiny_run, tmp_path / "copy"))


@contextlib.contextmanager
def other(program: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Another process, once it has said something; killed at the end."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


AT_WORK = """
import sys
from pathlib import Path
from hwnas.pipeline.folder import locked
with locked(Path(sys.argv[1])):
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_the_second_is_refused_until_the_first_is_dead(copy: Path, hwnas_command: Command) -> None:
    (copy / "models" / ".architecture.json.killed.tmp").write_text("what a killed writer left")
    with other(AT_WORK, copy) as first:
        code, _, err = hwnas_command("report", copy, "--restart")
        assert code == 1
        assert err == (
            f"error: {copy}: process {first.pid} of {platform.node()} is at work here; wait for it, or stop "
            "it (its lock ends with it: there is nothing to remove), or choose another --run-dir\n"
        )
        first.kill()
        first.wait()
        with locked(copy):
            pass
    assert list(copy.rglob("*.tmp")) == []


def test_a_finished_run_is_read_while_another_process_works(copy: Path, hwnas_command: Command) -> None:
    with other(AT_WORK, copy):
        for command in (["front", copy], ["report", copy], ["table", "show", copy / "latency_table.json"]):
            code, out, err = hwnas_command(*command)
            assert (code, err) == (0, "")
            assert out


def test_a_lock_that_was_never_written_names_nobody(tmp_path: Path) -> None:
    with locked(tmp_path):
        (tmp_path / ".lock").write_bytes(b"")
        with pytest.raises(StoreError, match=r": another process is at work here"), locked(tmp_path):
            pass


SEARCHING = """
import itertools, sys, time
import hwnas
def accuracy(archs):
    return [sum(len(str(value)) for value in arch.values.values()) for arch in archs]
space = hwnas.SearchSpace("macro", [hwnas.Choice(f"layer{i}", tuple(range(6))) for i in range(8)])
objective = hwnas.Objective("accuracy", "max", evaluate=accuracy, expensive=True)
store = hwnas.Store(sys.argv[1])
print("ready", flush=True)
hwnas.search(space, [objective], strategy="random", evaluations=1_000_000, store=store, name="beside")
"""


def test_a_running_search_is_read(copy: Path) -> None:
    """Of the store by others that open and close it, which is when SQLite needs it for itself."""
    with other(SEARCHING, copy / "run.db") as searching:
        seen = [0]
        while seen[-1] < 200:
            with contextlib.closing(Store(copy / "run.db")) as reader:
                known = reader.measurements("accuracy", "search beside")
                asked = sum(map(len, reader.rounds("beside")))
                assert len(known) <= asked
                seen.append(len(known))
            with contextlib.closing(load_run(copy)) as run:
                assert run.summary()["verified"]
                assert len(run.front) == len(run.models)
            assert searching.poll() is None
        assert seen == sorted(seen)
    assert LatencyTable.load(copy / "latency_table.json").operators


WRITING = """
import sys
import hwnas.store
from hwnas.store import Store
hwnas.store.BUSY_S = 600  # how long the others take depends on the machine
print("ready", flush=True)
sys.stdin.readline()
for i in range(25):
    store = Store(sys.argv[1])
    key = sys.argv[2] + str(i)
    store.begin_search("search", {})
    store.finish_stage(key, {}, {})
    store.close()
"""


def test_processes_that_make_one_store_together_wait_for_each_other(tmp_path: Path) -> None:
    path = tmp_path / "new" / "run.db"
    with contextlib.ExitStack() as stack:
        writers = [stack.enter_context(other(WRITING, path, name)) for name in "abcd"]
        for writer in writers:
            assert writer.stdin is not None
            writer.stdin.write("go\n")
            writer.stdin.flush()
        assert [writer.wait() for writer in writers] == [0] * 4
    with contextlib.closing(Store(path)) as made:
        assert all(made.stage(f"{name}{i}") is not None for name in "abcd" for i in range(25))


HANGING = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("BEGIN IMMEDIATE")
print("ready", flush=True)
sys.stdin.read()
"""


def test_a_writer_that_hangs_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "BUSY_S", 0.1)
    path = tmp_path / "run.db"
    Store(path).close()
    with contextlib.closing(Store(path)) as mine, other(HANGING, path):
        message = (
            f"cannot write {path}, nothing of this step was stored: another process has been writing it for "
            "0.1 s; wait for it, or stop it"
        )
        with pytest.raises(StoreError, match=f"^{re.escape(message)}$"):
            mine.finish_stage("train", {}, {})
        assert mine.stage("train") is None  # it is read meanwhile
        with contextlib.closing(Store(path)) as reader:
            assert reader.stage("train") is None
    with contextlib.closing(Store(path)) as mine:
        mine.finish_stage("train", {}, {})


def test_two_searches_of_one_name(tmp_path: Path) -> None:
    """A store may be shared without a run's lock: the search that comes second is stopped, none is mixed."""
    path, space = tmp_path / "run.db", hwnas.SearchSpace("toy", [hwnas.Choice("x", tuple(range(1000)))])
    second: list[Any] = []

    def accuracy(archs: Any) -> list[float]:
        if not second:
            second.append(None)
            with contextlib.closing(Store(path)) as other_store:
                second[0] = search(other_store)
        return [arch.values["x"] for arch in archs]

    def search(shared: Store) -> Any:
        objective = hwnas.Objective("accuracy", "max", evaluate=accuracy, expensive=True)
        return hwnas.search(space, [objective], strategy="random", evaluations=30, store=shared)

    with contextlib.closing(Store(path)) as mine:
        with pytest.raises(StoreError, match="another process is searching here; wait for it to end"):
            search(mine)
        result = search(mine)
    assert [e.architecture for e in result.evaluations] == [e.architecture for e in second[0].evaluations]
