"""What many tests share: one small real run, and the command in this process."""

from __future__ import annotations

import os

# Before torch is loaded: small tensors gain nothing from more threads, and lose much on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import math
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, settings

# An example may take any time: how long it takes says how busy the machine is.
settings.register_profile("hwnas", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("hwnas")

Command = Callable[..., tuple[int, str, str]]

TINY: dict[str, Any] = {
    "name": "tiny",
    "seed": 0,
    "data": {"name": "cluttered-digits", "train": 600, "validation": 200, "test": 200},
    "space": {
        "name": "mobilenetv3",
        "resolutions": [12, 16],
        "stem": {"width": 8, "activation": "relu"},
        "stages": [
            {"block": "fused", "width": [8, 16], "depth": [1, 2], "kernel": 3, "expand": [1, 2]},
            {"block": "mbconv", "width": 16, "depth": [1, 2], "kernel": [3, 5], "expand": 2, "stride": 2},
        ],
        "head": {"width": 32, "activation": "relu"},
    },
    "training": {"steps": 100, "batch_size": 32, "warmup_steps": 5, "precision": "fp32", "threads": 1},
    "latency": {
        "budgets_ms": [1000.0],
        "rounds": 6,
        "calibration_networks": 4,
        "held_out_networks": 4,
        "verify_rounds": 8,
        "allow_noisy": True,  # tests run beside other work
    },
    "search": {"evaluations": 24, "calibration_images": 128, "random_baseline": True},
}


def write_config(folder: Path, **sections: dict[str, Any]) -> Path:
    """The tiny experiment as a file in a folder, with some fields of its sections changed."""
    changed = {**TINY, **{name: {**TINY[name], **fields} for name, fields in sections.items()}}
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(changed))
    return path


CONNECTIONS: list[tuple[str, str]] = []  # that this process opened to other machines
OF_THE_RUN: list[tuple[str, str]] = []  # those while the shared run was made


def _heard(event: str, arguments: tuple[Any, ...]) -> None:
    asks = event in ("socket.connect", "socket.getaddrinfo", "socket.sendto")
    if asks and getattr(arguments[0], "family", None) != socket.AF_UNIX:
        CONNECTIONS.append((event, str(arguments)))


sys.addaudithook(_heard)


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run of the tiny experiment; tests copy it before they change it.

    Its latencies are computed, so its search asks for the same architectures on every machine.
    """
    import hwnas
    from hwnas.latency.devices import DEVICES
    from tests.latency.fakes import ComputedRuntime

    folder, before = tmp_path_factory.mktemp("tiny"), len(CONNECTIONS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(DEVICES, "onnxruntime", ComputedRuntime)
        run = hwnas.run(write_config(folder), run_dir=folder / "run")
    OF_THE_RUN.extend(CONNECTIONS[before:])
    return run.directory


def write_plain_report(data: Any, directory: Path) -> Path:
    """A report without figures, which take seconds to draw."""
    path = directory / "report.html"
    path.write_text(f"{data.name}: {len(data.models)} models\n")
    return path


@pytest.fixture
def plain_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports have no figures, for tests that make a report and do not read it."""
    monkeypatch.setattr("hwnas.report.html.write_report", write_plain_report)


@pytest.fixture
def still_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measuring takes no time, so how many passes it is shared out to does not depend on the machine."""
    monkeypatch.setattr("hwnas.latency.campaign.time", SimpleNamespace(monotonic=lambda: 0.0))


@pytest.fixture
def hwnas_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs the command in this process: exit code, standard output, standard error.

    Standard error is without the lines that tell of a long stage: whether they come depends on the machine.
    """
    from hwnas.cli import main

    monkeypatch.setattr("hwnas.cli.display.LINE_S", math.inf)

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["hwnas", *map(str, arguments)])
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run
