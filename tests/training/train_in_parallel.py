"""One of the processes of test_parallel: train the tiny net, and write its weights and losses.

train_in_parallel.py DIES_AT FOLDER TRAINING [FOLDER TRAINING …]: one training after another, TRAINING as
JSON; the process kills itself at the step DIES_AT, unless that is negative. An error of hwnas's is its
message alone, as the command prints it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from hwnas.config import Training
from hwnas.errors import HwnasError
from hwnas.networks.supernet import Supernet
from hwnas.training import loop
from hwnas.training.parallel import rank
from hwnas.training.strategies import Phase
from tests.training.small_data import blobs, tiny_space


def train(folder: Path, settings: Training) -> None:
    """Into ``folder/rank0`` and so on."""
    net = Supernet(tiny_space(classes=3))
    result = loop.train(net, blobs(), blobs(60, seed=1), settings, folder, seed=5)
    net.save(folder / f"rank{rank()}")
    losses = [report.loss for report in result.reports]
    (folder / f"rank{rank()}" / "losses.json").write_text(json.dumps(losses))


def main(dies_at: int, *trainings: str) -> None:
    learning_rate_at = loop.learning_rate_at

    def mortal(step: int, settings: Training, phase: Phase) -> float:
        if step == dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return learning_rate_at(step, settings, phase)

    loop.learning_rate_at = mortal
    for folder, settings in zip(trainings[::2], trainings[1::2], strict=True):
        train(Path(folder), Training.model_validate_json(settings))


if __name__ == "__main__":
    try:
        main(int(sys.argv[1]), *sys.argv[2:])
    except HwnasError as error:
        sys.exit(str(error))
