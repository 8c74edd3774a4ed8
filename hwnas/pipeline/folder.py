"""A run's folder: where it is, who is at work there, its log, and what it was made on."""

from __future__ import annotations

import datetime
import fcntl
import logging
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from hwnas.errors import ConfigError, StoreError
from hwnas.latency.devices import get_device

log = logging.getLogger("hwnas")


def run_folder(run_dir: str | Path) -> Path:
    """Where a run lives: as given if that is absolute or under ``runs/``, otherwise under ``runs/``."""
    path = Path(run_dir)
    if path.is_absolute() or (path.parts[:1] == ("runs",) and len(path.parts) > 1):
        return path
    if ".." in path.parts:
        raise ConfigError(f"run folder {path} climbs out of runs/; give an absolute path")
    return Path("runs") / path


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
        "load": round(os.getloadavg()[0], 2),
        "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "git_commit": _git_commit(),
        "packages": {name: version(name) for name in packages},
    }


def _git_commit() -> str | None:
    """The commit of the checkout that hwnas runs from; None where it is installed otherwise."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists() or shutil.which("git") is None:
        return None
    command = ["git", "-C", str(root), "rev-parse", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or None


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """One process at a time in a run's folder; StoreError names the one that is there."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        file = (directory / ".lock").open("a+")
    except OSError as error:
        raise StoreError(f"cannot write {directory}: {error.strerror}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            raise StoreError(
                f"{directory}: process {file.read().strip()} is at work here; wait for it, stop it, "
                "or choose another --run-dir"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


@contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """The log of hwnas, from information on, into a file; an error that ends the work is its last line."""
    try:
        handler = logging.FileHandler(path, encoding="utf-8")
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror}") from None
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    except BaseException as error:
        log.info("stopped: %s: %s", type(error).__name__, error)
        raise
    finally:
        log.setLevel(level)
        log.removeHandler(handler)
        handler.close()
