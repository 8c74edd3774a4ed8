"""What survives a power failure, as far as it can be seen: what is renamed, or said to be stored, is flushed.

What a disk does that says it has written and has not, no program can promise; see README.md beside this file.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hwnas.pipeline import STAGES, load_run
from hwnas.store import Store, write_bytes
from tests.reliability.faults import layer

UNSEEN = ("run.db", "run.db-wal", "run.db-shm", "hwnas.log", ".lock")  # written in place


def check_flushed(steps: list[tuple[str, str]]) -> set[str]:
    """Each file is flushed after it was written and before it is renamed, and then its folder is.

    A folder that was made is flushed in the one that it is in before anything is written. The names of the
    files that were renamed to.
    """
    renamed, dirty, unflushed = set(), set[str](), set[str]()  # files, and folders of what changed in them
    for step, path in steps:
        match step:
            case "after write":
                assert not unflushed, f"{path} is written while {unflushed} is not on the disk"
                dirty.add(path)
            case "after fsync":
                dirty.discard(path)
                unflushed.discard(path)
            case "replace":
                assert path not in dirty, f"{path} is renamed, and was not flushed"
                renamed.add(re.sub(r"/\.([^/]+)\.[^/.]+\.tmp$", r"/\1", path))
            case "after replace" | "after makedirs":
                unflushed.add(str(Path(path).parent))
    assert not unflushed
    return renamed


def traced(folder: Path, names: tuple[str, ...], restart: str) -> tuple[list[tuple[str, str]], set[str]]:
    """The steps of making stages again, SQLite's left out, and the files that changed."""
    steps: list[tuple[str, str]] = []

    def told(step: str, path: str) -> None:
        if "/run.db" not in path:
            steps.append((step, path))

    before = {path: path.stat().st_ino for path in folder.rglob("*") if path.is_file()}
    with contextlib.closing(load_run(folder)) as run, layer(told):
        run.make(names, restart=restart)
    after = {path: path.stat().st_ino for path in folder.rglob("*") if path.is_file()}
    return steps, {str(path) for path, inode in after.items() if before.get(path) != inode}


@pytest.mark.parametrize(
    ("names", "restart"),
    [
        (("search", "export"), "export"),
        pytest.param(tuple(STAGES), "all", marks=pytest.mark.slow),
    ],
)
def test_no_artefact_is_renamed_before_it_is_on_the_disk(
    tiny_run: Path, tmp_path: Path, names: tuple[str, ...], restart: str
) -> None:
    folder = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    shutil.rmtree(folder / "models")
    steps, changed = traced(folder, names, restart)
    renamed = check_flushed(steps)
    assert len(renamed) > 5
    assert {path for path in changed if Path(path).name not in UNSEEN} <= renamed  # nothing goes another way


def test_what_is_not_flushed_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[tuple[str, str]] = []
    with layer(lambda step, path: steps.append((step, path))):
        write_bytes(tmp_path / "deep" / "er" / "file", b"data")
    assert check_flushed(steps) == {str(tmp_path / "deep" / "er" / "file")}
    flushes = [i for i, (step, _) in enumerate(steps) if step == "after fsync"]
    assert len(flushes) == 4  # of two folders that were made, of the file, and of its folder
    for left_out in flushes:
        with pytest.raises(AssertionError):
            check_flushed(steps[:left_out] + steps[left_out + 1 :])


def test_run_db_is_flushed_at_every_commit(tmp_path: Path) -> None:
    with contextlib.closing(Store(tmp_path / "run.db")) as store:
        assert store._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert store._db.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL


PROGRAM = """
import os, sys
from hwnas.store import Measurement, Store
store = Store(sys.argv[1])
store.add_round("s", 0, "space", {"a": {"k": 3}})
os.write(1, b"begin\\n")
store.add_measurement(Measurement("a", "accuracy", "net", 91.5, None, 0.1))
os.write(1, b"stored\\n")
"""


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_a_value_is_on_the_disk_when_the_store_says_so(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    command = ["strace", "-y", "-o", str(trace), "-e", "trace=write,pwrite64,fsync,fdatasync"]
    program = [sys.executable, "-c", PROGRAM, str(tmp_path / "new" / "run.db")]
    done = subprocess.run([*command, *program], env=os.environ, capture_output=True, text=True, check=False)
    if "ptrace" in done.stderr.lower():
        pytest.skip("no process may be traced here")
    assert done.stdout == "begin\nstored\n", done.stderr
    calls = [line.partition("(") for line in trace.read_text().splitlines()]
    said = [(call, rest) for call, _, rest in calls if "/run.db" in rest or rest.startswith("1<")]
    begin, stored = (i for i, (call, rest) in enumerate(said) if call == "write" and rest.startswith("1<"))
    between = said[begin + 1 : stored]
    assert any(call == "pwrite64" and "run.db-wal" in rest for call, rest in between)
    assert between[-1][0] in ("fsync", "fdatasync")
    assert "run.db-wal" in between[-1][1]
    folder = f"<{tmp_path / 'new'}>"
    assert any("sync" in call and folder in rest for call, _, rest in calls)  # where run.db-wal is new
