"""Ctrl-C: once finishes the step in hand and saves, twice stops at once; both resume."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hwnas.cli.display import StageDisplay
from hwnas.progress import Progress, silent
from tests.conftest import Command, write_config
from tests.latency.fakes import FakeDevice


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


# Presses Ctrl-C when the checkpoint before the first step is written.
AT_THE_FIRST_CHECKPOINT = """
import os, signal
from hwnas.training import checkpoint

save = checkpoint.save

def save_and_interrupt(*arguments):
    checkpoint.save = save
    save(*arguments)
    os.kill(os.getpid(), signal.SIGINT)

checkpoint.save = save_and_interrupt
from hwnas.__main__ import main
main()
"""


def test_an_interrupted_command_says_how_to_go_on_and_does(tmp_path: Path) -> None:
    config = write_config(tmp_path, training={"steps": 20, "warmup_steps": 1})
    folder = tmp_path / "run"
    arguments = ["train", str(config), "--run-dir", str(folder)]
    training = subprocess.run(
        [sys.executable, "-c", AT_THE_FIRST_CHECKPOINT, *arguments],
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    checkpoint, said = folder / "supernet" / "checkpoint.safetensors", training.stderr
    assert training.returncode == 130
    assert "finishing the step in hand" in said
    assert said.endswith("interrupted; the same command goes on from here\n")
    assert "Traceback" not in said
    assert checkpoint.exists()
    assert not (folder / "supernet" / "model.safetensors").exists()
    command = [sys.executable, "-m", "hwnas", *arguments]
    assert subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode == 0
    assert (folder / "supernet" / "model.safetensors").exists()


# Presses Ctrl-C when a module is first looked for, then is the command.
AT_AN_IMPORT = """
import os, signal, sys
last = sys.argv.pop(1)

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == last:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupting())
from hwnas.__main__ import main
main()
"""


@pytest.mark.parametrize("module", ["hwnas.cli", "rich.console", "hwnas.pipeline", "onnxruntime.capi"])
def test_an_interrupt_during_the_imports_is_one_line(module: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", AT_AN_IMPORT, module, "front", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


def test_an_interrupt_while_a_run_is_opened_is_one_line(tmp_path: Path) -> None:
    config = tmp_path / "pipe.yaml"
    os.mkfifo(config)
    command = [sys.executable, "-m", "hwnas", "run", str(config), "--run-dir", str(tmp_path / "run")]
    opening = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with config.open("w"):  # it has come to its experiment, and waits for the first word
        opening.send_signal(signal.SIGINT)
        out, said = opening.communicate()
    assert (opening.returncode, out, said) == (130, "", "interrupted\n")
    assert not (tmp_path / "run").exists()


class Interrupted(FakeDevice):
    """Somebody presses Ctrl-C in the second pass."""

    def measure(self, models: Any, plan: Any, progress: Progress = silent) -> Any:
        if self.plans:
            os.kill(os.getpid(), signal.SIGINT)
        return super().measure(models, plan, progress)


@pytest.mark.parametrize("command", ["verify", "benchmark"])
@pytest.mark.parametrize("device", ["interrupted", "ssh://board"])
def test_a_measurement_that_no_stage_keeps_says_so(
    command: str,
    device: str,
    tiny_run: Path,
    tmp_path: Path,
    hwnas_command: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("hwnas.latency.devices.get_device", lambda *_: Interrupted())
    monkeypatch.setattr("hwnas.verifying.get_device", lambda *_: Interrupted())
    copy = Path(shutil.copytree(tiny_run, tmp_path / "copy"))
    model = next((copy / "models").iterdir())
    before = (model / "architecture.json").read_bytes()
    code, out, err = hwnas_command(command, copy if command == "verify" else model, "--device", device)
    assert (code, out) == (130, "")
    assert "Aborted" not in err
    kept = {
        "interrupted": "interrupted; nothing of this measurement is kept: the same command starts anew",
        "ssh://board": "what the board has measured it keeps for a day: the same command goes on with it",
    }
    assert err.splitlines()[-1].endswith(kept[device])
    assert (model / "architecture.json").read_bytes() == before
