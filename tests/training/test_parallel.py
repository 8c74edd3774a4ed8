"""Two processes against one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from hwnas.config import Training
from hwnas.errors import ConfigError
from hwnas.pipeline import run

from ..conftest import write_config
from .train_in_parallel import train

ROOT = Path(__file__).parents[2]
SETTINGS: dict[str, Any] = {
    "steps": 9,
    "batch_size": 16,
    "warmup_steps": 2,
    "precision": "fp32",
    "threads": 1,
    "device": "cpu",
    "crop_padding": 1,
    "flip": True,
    "report_every": 3,
}
TRAININGS: dict[str, dict[str, Any]] = {
    "sandwich": {"dropout": 0.2, "drop_connect": 0.2},
    "attentive": {"strategy": "attentive", "loss": "alpha", "average": 0.9},
    "progressive": {"strategy": "progressive", "mixup": 0.2},
    "uniform": {"strategy": "uniform"},  # most parameters are used by neither process in a step
}


def settings(name: str, **changes: Any) -> Training:
    return Training.model_validate({**SETTINGS, **TRAININGS[name], **changes})


def environment(**variables: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **variables}


def two_processes(
    trainings: dict[Path, Training], dies: int | None = None, at: int = 0
) -> list[tuple[int, str]]:
    """The trainings by two processes, set up as torchrun does; their exit codes and errors.

    The process `dies` kills itself at the step `at`.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    arguments = [text for folder, t in trainings.items() for text in (str(folder), t.model_dump_json())]
    program = [sys.executable, str(ROOT / "tests" / "training" / "train_in_parallel.py")]
    processes = []
    for rank in range(2):
        place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
        env = environment(**place, MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
        command = [*program, str(at if rank == dies else -1), *arguments]
        processes.append(subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True))
    said = [process.communicate(timeout=1200)[1] for process in processes]
    return [(process.returncode, text) for process, text in zip(processes, said, strict=True)]


@pytest.fixture(scope="module")
def by_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of finished trainings by two processes, by name."""
    folder = tmp_path_factory.mktemp("two")
    done = two_processes({folder / name: settings(name) for name in TRAININGS})
    assert [code for code, _ in done] == [0, 0]
    assert not any("FutureWarning" in said for _, said in done)
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(folder / "model.safetensors")


def assert_close(folder: Path, other: Path) -> None:
    for name, tensor in weights(folder).items():
        assert torch.allclose(tensor, weights(other)[name], atol=1e-5, rtol=1e-4), name


def losses(folder: Path) -> list[float]:
    found: list[float] = json.loads((folder / "losses.json").read_text())
    return found


@pytest.mark.parametrize("name", TRAININGS)
def test_two_processes_train_as_one_that_accumulates_their_halves(
    tmp_path: Path, by_two: Path, name: str
) -> None:
    train(tmp_path / "halves", settings(name, accumulate=2))
    train(tmp_path / "whole", settings(name))
    two, one = by_two / name / "rank0", tmp_path / "halves" / "rank0"
    assert_close(two, one)
    assert losses(two) == pytest.approx(losses(one), rel=1e-5)
    # Both processes have the same weights, bit for bit, and the first alone reports.
    second = weights(by_two / name / "rank1")
    assert all(torch.equal(tensor, second[key]) for key, tensor in weights(two).items())
    assert losses(by_two / name / "rank1") == []
    # The comparison means something: without halves, batch norm sees other statistics.
    with pytest.raises(AssertionError):
        assert_close(two, tmp_path / "whole" / "rank0")


@pytest.mark.parametrize("dies", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_training_of_which_a_process_was_killed_is_gone_on_with(
    tmp_path: Path, by_two: Path, dies: int
) -> None:
    broken = tmp_path / "broken"
    ends = two_processes({broken: settings("sandwich")}, dies, at=7)  # a step after a checkpoint
    assert ends[dies][0] == -signal.SIGKILL
    code, said = ends[1 - dies]
    lost = f"process {1 - dies} of 2 has lost another one; the same command goes on from the last checkpoint"
    assert (code, said.splitlines()[-1]) == (1, lost)
    shutil.copytree(broken, tmp_path / "moved")
    assert [code for code, _ in two_processes({broken: settings("sandwich")})] == [0, 0]
    expected = weights(by_two / "sandwich" / "rank0")
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(broken / "rank0").items())
    assert losses(broken / "rank0") == losses(by_two / "sandwich" / "rank0")
    # What two processes began, one that computes both halves can end.
    train(tmp_path / "moved", settings("sandwich", accumulate=2))
    assert_close(tmp_path / "moved" / "rank0", broken / "rank0")


def test_the_command_trains_in_several_processes(tmp_path: Path) -> None:
    # The first steps of progressive use all parameters; channels last, gradients have strides of their own.
    training = {"steps": 6, "device": "cpu", "precision": "bf16", "strategy": "progressive"}
    config = write_config(tmp_path, training=training)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = ["-m", "hwnas", "train", str(config), "--run-dir", str(tmp_path / "run")]
    done = subprocess.run(
        [*torchrun, *command], env=environment(), capture_output=True, text=True, timeout=1200, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Supernet:") == 1
    assert "Warning" not in done.stderr
    assert (tmp_path / "run" / "supernet" / "model.safetensors").exists()


def test_several_processes_do_nothing_but_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"several processes only train.*in one process"):
        run(write_config(tmp_path), run_dir=tmp_path / "run")
