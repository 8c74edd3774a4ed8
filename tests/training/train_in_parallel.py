"""A program for torchrun: train the tiny net, and write its weights and losses; see test_parallel.

train_in_parallel.py FOLDER TRAINING [DIES_AT]: TRAINING as JSON; with DIES_AT the second process kills itself
there.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import torch.distributed as dist

from hwnas.config import Training
from hwnas.networks.supernet import Supernet
from hwnas.training import loop
from hwnas.training.parallel import rank, world_size
from hwnas.training.strategies import Phase
from tests.training.small_data import blobs, tiny_space


def main(folder: Path, training: str, dies_at: int | None) -> None:
    learning_rate_at = loop.learning_rate_at

    def mortal(step: int, settings: Training, phase: Phase) -> float:
        assert world_size() == 1 or dist.get_world_size() == world_size()
        if step == dies_at and rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return learning_rate_at(step, settings, phase)

    loop.learning_rate_at = mortal
    net = Supernet(tiny_space(classes=3))
    settings = Training.model_validate_json(training)
    result = loop.train(net, blobs(), blobs(60, seed=1), settings, folder, seed=5, report_every=3)
    net.save(folder / f"rank{rank()}")
    losses = [report.loss for report in result.reports]
    (folder / f"rank{rank()}" / "losses.json").write_text(json.dumps(losses))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else None)
