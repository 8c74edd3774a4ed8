"""Ctrl-C: once finishes the step in hand and saves, twice stops at once; both resume."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hwnas.cli import StageDisplay
from tests.conftest import write_config


def test_the_first_interrupt_waits_for_the_step_in_hand() -> None:
    before, finished = signal.getsignal(signal.SIGINT), []

    def work() -> None:
        with StageDisplay() as display:
            update = display("train")
            for step in range(9):
                update(step, 9)
                if step == 2:
                    os.kill(os.getpid(), signal.SIGINT)
                finished.append(step)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert finished == [0, 1, 2]
    assert signal.getsignal(signal.SIGINT) == before


def test_the_second_interrupt_does_not() -> None:
    finished = []

    def work() -> None:
        with StageDisplay():
            for step in range(9):
                os.kill(os.getpid(), signal.SIGINT)
                finished.append(step)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert finished == [0]


def test_an_interrupted_command_says_how_to_go_on_and_does(tmp_path: Path) -> None:
    config = write_config(tmp_path, training={"steps": 400, "warmup_steps": 1})
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "hwnas", "train", str(config), "--run-dir", str(folder)]
    training = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    checkpoint = folder / "supernet" / "checkpoint.safetensors"
    while not checkpoint.exists():  # written before the first step
        assert training.poll() is None
        time.sleep(0.01)
    training.send_signal(signal.SIGINT)
    _, said = training.communicate()
    assert training.returncode == 130
    assert "finishing the step in hand" in said
    assert said.endswith("interrupted; the same command goes on from here\n")
    assert "Traceback" not in said
    assert checkpoint.exists()
    assert not (folder / "supernet" / "model.safetensors").exists()
    assert subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode == 0
    assert (folder / "supernet" / "model.safetensors").exists()
