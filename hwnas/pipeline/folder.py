"""A run's folder: where it is, who is at work there, its log, and what it was made on."""

from __future__ import annotations

import datetime
import fcntl
import logging
import os
import platform
import shutil
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from hwnas.errors import ConfigError, StoreError
from hwnas.files import expanded
from hwnas.latency.devices import get_device
from hwnas.latency.runner import cpu_quota, usable_cores
from hwnas.store import make_folder, remove_temporaries
from hwnas.text import PrintableFormatter

log = logging.getLogger("hwnas")

# What is written in place, and folders that are written to; other files are replaced as a whole.
WRITTEN = (
    "run.db", "run.db-wal", "run.db-shm", ".lock", "hwnas.log", "supernet", "models", "figures", "int8",
    "finetune", "tensorboard", "latency_table.unfinished",
)  # fmt: skip


def run_folder(run_dir: str | Path) -> Path:
    """Where a run lives: as given if that is absolute or under ``runs/``, otherwise under ``runs/``."""
    path = expanded(run_dir)
    if path.is_absolute():
        return path
    if ".." in path.parts:
        raise ConfigError(f"run folder {path} climbs out of runs/; give an absolute path")
    if path.parts[:1] == ("runs",) and len(path.parts) > 1:
        return path
    return Path("runs") / path


def check_written(directory: Path) -> None:
    """StoreError for what stands in a run's folder, where hwnas writes, and is neither file nor folder.

    Through a symbolic link it would write outside, and at a named pipe it would wait for ever.
    """
    for name in WRITTEN:
        _check_below(directory / name)


def _check_below(path: Path) -> None:
    """StoreError for a path that is there and is neither file nor folder, or anything like it below it."""
    try:
        mode = path.lstat().st_mode
        below = list(path.iterdir()) if stat.S_ISDIR(mode) else []
    except OSError:  # it is not there, or whoever needs it says why not
        return
    if stat.S_ISLNK(mode):
        raise StoreError(
            f"{path} is a symbolic link, and nothing is written outside a run's folder; put what it names in "
            "its place, or link the whole folder"
        )
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise StoreError(f"{path} is a pipe, a socket or a device, not a file; remove it")
    for inside in below:
        _check_below(inside)


def environment() -> dict[str, Any]:
    """Versions, processor and date, for the record."""
    cpu = get_device("onnxruntime").identity.device
    packages = ("hwnas", "torch", "onnxruntime", "numpy", "scikit-learn", "pymoo")
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": cpu["cpu"],
        "cores": psutil.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "load": _load(),
        "usable_cores": len(usable_cores()),
        "cpu_quota": cpu_quota(),  # cores; None without a limit
        "git_commit": _git_commit(),
        "packages": {name: version(name) for name in packages},
    }


def _load() -> float | None:
    """Load average of the last minute; None where the system hides it."""
    try:
        return round(os.getloadavg()[0], 2)
    except OSError:
        return None


def _git_commit() -> str | None:
    """The commit of the checkout that hwnas runs from; None where it is installed otherwise."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists() or shutil.which("git") is None:
        return None
    command = ["git", "-C", str(root), "rev-parse", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or None


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """One process at a time in a run's folder; StoreError names the one that is there.

    The lock is the kernel's: it ends with the process that holds it, however that ends. Whoever gets it
    removes what killed writers left.
    """
    path = directory / ".lock"
    try:
        make_folder(directory)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _lock(directory, descriptor)
            remove_temporaries(directory)
        except BaseException:
            os.close(descriptor)
            raise
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror}") from None
    try:
        yield
    finally:
        os.close(descriptor)


def check_unlocked(directory: Path) -> None:
    """Check that no other process works in a run's folder; writes nothing.

    Args:
        directory: Folder of the run.

    Raises:
        StoreError: Another process works there.
    """
    try:
        descriptor = os.open(directory / ".lock", os.O_RDWR)
    except OSError:  # there is no lock, or `locked` says why it cannot be opened
        return
    try:
        _take(directory, descriptor)
    finally:
        os.close(descriptor)


def _take(directory: Path, descriptor: int) -> None:
    """Lock an open file; StoreError names the process that holds the lock."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 1000, 0).decode(errors="replace").partition("\n")[0]
        raise StoreError(
            f"{directory}: {holder or 'another process'} is at work here; wait for it, or stop it (its lock "
            "ends with it: there is nothing to remove), or choose another --run-dir"
        ) from None


def _lock(directory: Path, descriptor: int) -> None:
    """Lock an open file, and write into it who has it."""
    _take(directory, descriptor)
    holder = f"process {os.getpid()} of {platform.node()}\n"
    os.pwrite(descriptor, holder.encode(), 0)
    os.ftruncate(descriptor, len(holder.encode()))


class _LogFile(logging.Handler):
    """Lines at the end of a file, on their way to the disk at once; StoreError for one that cannot be."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        try:
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            raise StoreError(f"cannot write {path}: {error.strerror}") from None

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._file.write(f"{self.format(record)}\n".encode())
        except OSError as error:
            raise StoreError(f"cannot write {self._path}: {error.strerror}") from None

    def close(self) -> None:
        self._file.close()
        super().close()


@contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """The log of hwnas, from information on, into a file; an error that ends the work is its last line."""
    handler = _LogFile(path)
    handler.setFormatter(PrintableFormatter("%(asctime)s %(levelname)s %(message)s"))
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    except BaseException as error:
        with suppress(StoreError):  # the disk may be full: what is said is the error itself
            log.info("stopped: %s: %s", type(error).__name__, error)
        raise
    finally:
        log.setLevel(level)
        log.removeHandler(handler)
        handler.close()
