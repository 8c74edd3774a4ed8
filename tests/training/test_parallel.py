"""Two processes by torchrun against one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from hwnas.config import Training

from ..conftest import write_config

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
}


def run(processes: int, *command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A Python program, by torchrun if in several processes."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return subprocess.run(
        [sys.executable, *(launcher if processes > 1 else []), *command],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def train(folder: Path, processes: int, dies_at: int | None = None, **changes: Any) -> bool:
    """Train the tiny net into a folder; whether all processes lived to the end."""
    folder.mkdir(exist_ok=True)
    training = Training.model_validate({**SETTINGS, **changes}).model_dump_json()
    program = str(Path(__file__).with_name("train_in_parallel.py"))
    death = [] if dies_at is None else [str(dies_at)]
    done = run(processes, program, str(folder), training, *death, cwd=folder)
    assert done.returncode == 0 or dies_at is not None, done.stderr
    return done.returncode == 0


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(folder / "model.safetensors")


def assert_close(folder: Path, other: Path) -> None:
    for name, tensor in weights(folder).items():
        assert torch.allclose(tensor, weights(other)[name], atol=1e-5, rtol=1e-4), name


def losses(folder: Path) -> list[float]:
    found: list[float] = json.loads((folder / "losses.json").read_text())
    return found


@pytest.mark.parametrize(
    "changes",
    [
        {"strategy": "attentive", "loss": "alpha", "average": 0.9},
        {"strategy": "uniform"},  # most parameters are used by neither process in a step
    ],
    ids=["attentive", "uniform"],
)
def test_two_processes_train_as_one_that_accumulates_their_halves(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    train(tmp_path / "two", 2, **changes)
    train(tmp_path / "one", 1, accumulate=2, **changes)
    train(tmp_path / "whole", 1, **changes)
    two, one = tmp_path / "two", tmp_path / "one" / "rank0"
    assert_close(two / "rank0", one)
    assert losses(two / "rank0") == pytest.approx(losses(one), rel=1e-5)
    # Both processes have the same weights, bit for bit, and the first alone reports.
    first, second = weights(two / "rank0"), weights(two / "rank1")
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    assert losses(two / "rank1") == []
    # The comparison means something: without halves, batch norm sees other statistics.
    with pytest.raises(AssertionError):
        assert_close(two / "rank0", tmp_path / "whole" / "rank0")


def test_a_training_of_which_a_process_was_killed_is_gone_on_with(tmp_path: Path) -> None:
    train(tmp_path / "whole", 2)
    assert not train(tmp_path / "broken", 2, dies_at=7)  # one step after a checkpoint
    assert not (tmp_path / "broken" / "rank0").exists()
    train(tmp_path / "broken", 2)
    whole, broken = tmp_path / "whole" / "rank0", tmp_path / "broken" / "rank0"
    assert all(torch.equal(tensor, weights(whole)[name]) for name, tensor in weights(broken).items())
    assert losses(whole) == losses(broken)
    # What two processes began, one that computes both halves can end.
    assert not train(tmp_path / "moved", 2, dies_at=7)
    train(tmp_path / "moved", 1, accumulate=2)
    assert_close(tmp_path / "moved" / "rank0", whole)


def test_the_command_trains_in_several_processes(tmp_path: Path) -> None:
    config = write_config(tmp_path, training={"steps": 6})
    command = ("-m", "hwnas", "train", str(config), "--run-dir", str(tmp_path / "run"))
    first = run(2, *command, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    assert first.stdout.count("Supernet:") == 1
    assert (tmp_path / "run" / "supernet" / "model.safetensors").exists()
    again = run(2, *command, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    other = run(2, "-m", "hwnas", "run", str(config), "--run-dir", str(tmp_path / "run"), cwd=tmp_path)
    assert other.returncode != 0
    assert "several processes only train" in other.stderr
