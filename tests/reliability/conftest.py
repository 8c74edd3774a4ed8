"""A finished run that is made in seconds, on a device that only states latencies."""

from __future__ import annotations

import gc
import shutil
from pathlib import Path
from typing import Any

import pytest

import hwnas
from hwnas.latency.devices import DEVICES
from tests.conftest import write_config, write_plain_report
from tests.latency.fakes import FakeDevice
from tests.reliability.make_fixtures import SMALL

QUICK: dict[str, Any] = {**SMALL, "latency": {"device": "fake", "rounds": 6, "calibration_networks": 4}}


def quick_config(folder: Path, **sections: dict[str, Any]) -> Path:
    """Write the quick experiment into a folder, with some fields of its sections changed."""
    names = QUICK.keys() | sections.keys()
    return write_config(folder, **{name: {**QUICK.get(name, {}), **sections.get(name, {})} for name in names})


def make_quick(patch: pytest.MonkeyPatch) -> None:
    """Add a device "fake", of this machine and without noise, and write reports without figures."""
    patch.setitem(DEVICES, "fake", lambda threads: FakeDevice())
    patch.setattr("hwnas.report.html.write_report", write_plain_report)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """`make_quick` for one test."""
    make_quick(monkeypatch)


@pytest.fixture(scope="session")
def finished_quick_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of the quick experiment; tests copy it before they change it."""
    folder = tmp_path_factory.mktemp("quick")
    with pytest.MonkeyPatch.context() as patch:
        make_quick(patch)
        hwnas.run(quick_config(folder), run_dir=folder / "run").close()
    return folder / "run"


@pytest.fixture
def quick_run(finished_quick_run: Path, tmp_path: Path, quick: None) -> Path:
    """A copy of the finished quick run, in a folder with a blank in its name."""
    return Path(shutil.copytree(finished_quick_run, tmp_path / "my runs" / "quick"))


def files_of(folder: Path) -> dict[str, bytes]:
    """The content of every file in and below a folder, by its path in it.

    Runs of earlier commands in this process are closed first, which ends the log beside run.db.
    """
    gc.collect()
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
