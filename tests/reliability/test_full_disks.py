"""A full or read-only disk at every write: what was there before stands, and the run goes on when it can."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwnas.errors import StoreError
from hwnas.pipeline import STAGES, load_run
from hwnas.store import Measurement, Store, file_digest, read_bytes, write_bytes
from tests.conftest import Command
from tests.reliability.faults import SEES_SQLITE, Told, layer
from tests.reliability.test_kills import check_whole

FILLS = int(os.environ.get("HWNAS_FILLS", "30"))
NO_ROOM = [errno.ENOSPC, errno.EROFS, errno.EDQUOT]


def failing_at(place: str, file: str, code: int) -> Told:
    """Fails at a step on files of which the name matches."""

    def told(step: str, path: str) -> None:
        if step == place and re.search(file, path):
            raise OSError(code, os.strerror(code))

    return told


# ---- one artefact, one store ---------------------------------------------------------------------


@pytest.mark.parametrize("code", NO_ROOM)
@pytest.mark.parametrize("step", ["mkstemp", "write", "in the middle of write", "fchmod", "fsync", "replace"])
def test_an_artefact_stands_when_the_next_one_cannot_be_written(tmp_path: Path, step: str, code: int) -> None:
    path = tmp_path / "a"
    write_bytes(path, b"old" * 1000)
    message = rf"cannot write .*/a: {os.strerror(code)}; what was there before stands$"
    with layer(failing_at(step, r"/\.a\.", code)), pytest.raises(StoreError, match=message):
        write_bytes(path, b"new" * 1000)
    assert read_bytes(path) == b"old" * 1000
    assert list(tmp_path.iterdir()) == [path]
    write_bytes(path, b"new" * 1000)
    assert read_bytes(path) == b"new" * 1000


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    with layer(failing_at("makedirs", "deep$", errno.EROFS)), pytest.raises(StoreError, match="Read-only"):
        write_bytes(tmp_path / "deep" / "a", b"")
    with (
        layer(failing_at("fsync", f"{tmp_path.name}$", errno.EIO)),
        pytest.raises(StoreError, match=r"/a is written, but not yet safe on the disk: Input/output error"),
    ):
        write_bytes(tmp_path / "a", b"new")
    assert read_bytes(tmp_path / "a") == b"new"


@pytest.mark.skipif(not SEES_SQLITE, reason="SQLite is not a shared library here")
@pytest.mark.parametrize("step", ["write", "in the middle of write"])
@pytest.mark.parametrize(("code", "said"), [(errno.ENOSPC, "make room"), (errno.EIO, "full, or failing")])
def test_a_store_stands_when_no_more_can_be_written(tmp_path: Path, step: str, code: int, said: str) -> None:
    path = tmp_path / "run.db"
    store = Store(path)
    store.add_round("s", 0, "space", {"a": {}, "b": {}})
    store.add_measurement(Measurement("a", "accuracy", "net", 90.0, None, 0.1))
    writes: list[Callable[[], Any]] = [
        lambda: store.add_measurement(Measurement("b", "accuracy", "net", 91.0, None, 0.1)),
        lambda: store.add_round("s", 1, "space", {str(i): {"k": i} for i in range(20_000)}),  # spills
        lambda: store.finish_stage("train", {}, {}),
        lambda: store.begin_search("s", {}),
    ]
    with layer(failing_at(step, "run.db", code)):
        for write in writes * 2:
            message = rf"cannot write {path}, nothing of this step was stored: (?!cannot).*{said}"
            with pytest.raises(StoreError, match=message) as failed:
                write()
            assert "\n" not in str(failed.value)
            assert set(store.measurements("accuracy", "net")) == {"a"}
    for write in writes:
        write()
    store.close()
    with contextlib.closing(Store(path)) as again:
        assert set(again.measurements("accuracy", "net")) == {"a", "b"}
        assert [len(batch) for batch in again.rounds("s")] == [2, 20_000]


@pytest.mark.skipif(not SEES_SQLITE, reason="SQLite is not a shared library here")
def test_a_store_that_cannot_be_made_is_said_and_is_made_later(tmp_path: Path) -> None:
    for number in range(1, 60, 4):
        left = number

        def told(step: str, path: str) -> None:
            nonlocal left
            left -= "run.db" in path and step == "write"
            if left < 0:
                raise OSError(errno.ENOSPC, "")

        path = tmp_path / str(number) / "run.db"
        said = ""
        with layer(told):
            try:
                Store(path).close()
            except StoreError as error:
                said = str(error)
        assert not said or re.match(f"cannot (open|write) {path}.*(make room|its disk full)", said)
        assert "delete it" not in said
        with contextlib.closing(Store(path)) as store:
            store.finish_stage("train", {}, {})
            assert store.rounds("search") == []


@pytest.mark.parametrize("file", ["hwnas.log", ".lock"])
def test_a_full_disk_under_the_log_and_the_lock(
    tiny_run: Path, tmp_path: Path, hwnas_command: Command, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    folder = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    monkeypatch.setattr("hwnas.pipeline.job.check_written", lambda directory: None)  # or the link is refused
    (folder / file).unlink()
    (folder / file).symlink_to("/dev/full")
    code, _, err = hwnas_command("report", folder, "--restart")
    assert (code, err) == (1, f"error: cannot write {folder / file}: No space left on device\n")
    (folder / file).unlink()
    code, _, err = hwnas_command("report", folder)
    assert code == 0


# ---- all of a run --------------------------------------------------------------------------------


@pytest.fixture
def reopened(tiny_run: Path, tmp_path: Path) -> Path:
    """A copy of the tiny run in which every stage is to be made again, over what it made before."""
    return reopen(Path(shutil.copytree(tiny_run, tmp_path / "run")))


def reopen(folder: Path) -> Path:
    with contextlib.closing(load_run(folder)) as run:
        run.store.reopen_stages(list(STAGES))
    return folder


def artefacts(folder: Path) -> dict[Path, str]:
    return {
        path: file_digest(path)
        for path in folder.rglob("*")
        if path.is_file()
        and path.parent.name != "latency_table.unfinished"  # goes when the table is there
        and not path.name.startswith((".", "run.db", "hwnas.log"))
    }


def kind(path: Path, folder: Path) -> str:
    """A pattern of the temporary name of an artefact: models and figures are alike."""
    parent = path.parent.relative_to(folder).as_posix()
    parent = re.sub(r"^models/.*", "models/[^/]+", parent)
    name = r"[^/]+\.png" if path.suffix == ".png" else re.escape(path.name)
    return f"{folder}/{'' if parent == '.' else parent + '/'}\\.{name}\\.[^/]+$"


@pytest.mark.slow
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_every_kind_of_artefact(
    reopened: Path, hwnas_command: Command, record_property: Any, code: int
) -> None:
    shutil.rmtree(reopened / "supernet")  # so that it is trained
    kinds = {kind(path, reopened) for path in artefacts(reopened)}
    kinds |= {kind(reopened / "supernet" / n, reopened) for n in ("model.safetensors", "supernet.json")}
    kinds |= {kind(reopened / "supernet" / "checkpoint.safetensors", reopened)}
    left = set(kinds)
    while left:
        before, hit = artefacts(reopened), ""

        def told(step: str, path: str) -> None:
            nonlocal hit
            found = next((k for k in left if re.fullmatch(k, path)), None)
            if not hit and step == "in the middle of write" and found is not None:
                hit = found
                raise OSError(code, os.strerror(code))

        with layer(told):
            exit_code, _, err = hwnas_command("run", reopened / "config.yaml", "--run-dir", reopened)
        assert hit, f"nobody wrote {left}"
        left.discard(hit)
        assert exit_code == 1
        assert re.fullmatch(
            rf"error: cannot write \S+: {os.strerror(code)}; what was there before stands\n", last_line(err)
        )
        failed = Path(err.split("cannot write ")[-1].split(": ")[0])
        assert before.get(failed) == (file_digest(failed) if failed.exists() else None)
        assert list(reopened.rglob("*.tmp")) == []
    code_at_last, _, _ = hwnas_command("run", reopened / "config.yaml", "--run-dir", reopened)
    assert code_at_last == 0
    record_property("kinds of artefacts", len(kinds))


def last_line(said: str) -> str:
    return said.splitlines(keepends=True)[-1]


@contextlib.contextmanager
def small_disk(path: Path, megabytes: int) -> Iterator[Path]:
    """A file system of so many megabytes; the test is skipped where none may be mounted."""
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(path)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no file system may be mounted here: {done.stderr.strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def fill(disk: Path, free: int) -> None:
    """Leave so many bytes of a disk."""
    ballast = disk / "ballast"
    ballast.unlink(missing_ok=True)
    size = shutil.disk_usage(disk).free - free
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, size)


def check_full(folder: Path, free: int, hwnas_command: Command) -> str:
    """Go on with a run on a disk with so much room: it ends, or says in one line what cannot be written."""
    before = artefacts(folder)
    fill(folder.parent, free)
    code, _, err = hwnas_command("run", folder / "config.yaml", "--run-dir", folder)
    (folder.parent / "ballast").unlink()
    for path in folder.rglob("*"):
        if path.is_file() and not path.name.startswith((".", "run.db")):
            check_whole(path)
    assert before.keys() <= artefacts(folder).keys()
    if code == 0:
        return "there was room enough"
    assert code == 1
    assert "Traceback" not in err
    assert re.fullmatch(
        rf"error: cannot (write|open) {folder}\S*[:,] .*(No space left|make room|disk full).*\n",
        last_line(err),
    ), err
    return "refused: run.db" if "run.db" in last_line(err) else "refused: an artefact, the log or the lock"


def test_a_run_on_a_full_disk_goes_on_when_there_is_room(
    tiny_run: Path, tmp_path: Path, hwnas_command: Command
) -> None:
    with small_disk(tmp_path / "disk", 16) as disk:
        folder = reopen(Path(shutil.copytree(tiny_run, disk / "run")))
        for free in (0, 60_000):
            assert check_full(folder, free, hwnas_command).startswith("refused")
        with contextlib.closing(load_run(folder)) as run:
            run.make(["profile", "train", "search", "export"])


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_runs_on_disks_that_are_full_anywhere(
    tiny_run: Path, tmp_path: Path, hwnas_command: Command, record_property: Any
) -> None:
    rng, ends = np.random.default_rng(0), dict[str, int]()
    with small_disk(tmp_path / "disk", 16) as disk:
        folder = disk / "run"
        for number in range(FILLS):
            if not number % 5:
                shutil.rmtree(folder, ignore_errors=True)
                shutil.copytree(
                    tiny_run, folder, ignore=shutil.ignore_patterns("models", "figures", "report*")
                )
                reopen(folder)
            end = check_full(folder, int(rng.integers(0, 300_000)), hwnas_command)
            ends[end] = ends.get(end, 0) + 1
        code, _, _ = hwnas_command("run", folder / "config.yaml", "--run-dir", folder)
        assert code == 0
    assert any(end.startswith("refused") for end in ends)
    for end, count in ends.items():
        record_property(end, count)


def test_a_run_that_cannot_be_written_is_read(tiny_run: Path, tmp_path: Path, hwnas_command: Command) -> None:
    with small_disk(tmp_path / "disk", 16) as disk:
        folder = Path(shutil.copytree(tiny_run, disk / "run"))
        shutil.copytree(folder, disk / "exported")
        with contextlib.closing(load_run(disk / "exported")) as exported:
            exported.store.reopen_stages(["verify", "report"])
        with contextlib.closing(load_run(folder)):
            pass  # nothing is left in the log of run.db
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        for command in (
            ["front", folder],
            ["front", disk / "exported"],
            ["report", folder],
            ["run", folder / "config.yaml", "--run-dir", folder],
            ["table", "show", folder / "latency_table.json"],
            ["table", "validate", folder / "latency_table.json"],
        ):
            code, out, err = hwnas_command(*command)
            assert (code, err) == (0, ""), command
            assert out
        for command in (["report", folder, "--restart"], ["search", folder, "--evaluations", "+1"]):
            code, _, err = hwnas_command(*command)
            assert (code, err) == (1, f"error: cannot write {folder / '.lock'}: Read-only file system\n")
