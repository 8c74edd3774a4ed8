"""The commands for a board, as users give them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from hwnas.cli import main
from hwnas.config import load_config
from hwnas.latency.profiling import profile
from hwnas.latency.table import LatencyTable
from tests.conftest import write_config
from tests.latency.devices.board import running_board
from tests.latency.fakes import FakeDevice, small_space

Command = Callable[..., str]
QUICK = {"rounds": 4, "calibration_networks": 3, "held_out_networks": 3, "allow_noisy": True}


@pytest.fixture
def hwnas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """The command in a folder of its own; what it printed."""
    monkeypatch.chdir(tmp_path)

    def command(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["hwnas", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        captured = capsys.readouterr()
        assert not stop.value.code, captured.err
        return captured.out

    return command


def test_a_board_over_ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hwnas: Command) -> None:
    (tmp_path / "board").mkdir()
    config = write_config(tmp_path, latency=QUICK)
    with running_board(tmp_path / "board", monkeypatch) as board:
        core = max(os.sched_getaffinity(0))
        told = hwnas("profile", config, "--device", f"ssh://{board.address()}", "--cores", core)
        assert list((board.cache / "pieces").iterdir())
        assert not list((board.cache / "jobs").iterdir())
    assert "unseen networks" in told
    table = LatencyTable.load("runs/tiny/latency_table.json")
    assert table.runtime["name"] == "onnxruntime"
    assert table.protocol["cores"] == [core]
    assert f"threads 1 on cores {core}" in told
    assert load_config("runs/tiny/config.yaml").latency.cores == (core,)


def test_a_board_without_a_network(tmp_path: Path, hwnas: Command) -> None:
    core = max(os.sched_getaffinity(0))
    told = hwnas(
        "profile", write_config(tmp_path, latency=QUICK), "--bundle", "board.zip", "--cores", f"{core}-{core}"
    )
    assert "python3 board.zip" in told
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    command = [sys.executable, "-P", "board.zip"]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
    build = ("table", "build", "results.json", "-o", "tables/board.json")
    assert "unseen networks" in hwnas(*build, "--allow-noisy")
    table = LatencyTable.load(tmp_path / "tables" / "board.json")
    assert table.calibration[0]["held_out"]["networks"] == 3
    assert table.protocol["cores"] == [core]


def test_noisy_results_make_a_table_only_if_that_is_allowed(
    tmp_path: Path, hwnas: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = profile(small_space(), FakeDevice(), rounds=4, calibration_networks=3, held_out_networks=3)
    noisy = replace(table, protocol={**table.protocol, "noisy": True, "noise": ["the fan was loud"]})
    monkeypatch.setattr("hwnas.latency.bundle.build_table", lambda path: noisy)
    monkeypatch.setattr(sys, "argv", ["hwnas", "table", "build", "results.json", "-o", "board.json"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 1
    assert "the fan was loud" in capsys.readouterr().err
    assert not (tmp_path / "board.json").exists()
    assert "noisy: the fan was loud" in hwnas(*sys.argv[1:], "--allow-noisy")
    assert LatencyTable.load(tmp_path / "board.json").protocol["noisy"]
