"""What there is to watch of a search, for TensorBoard: ``hwnas.search(…, watch=TensorBoard("logs"))``."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from hwnas.errors import MissingExtraError
from hwnas.files import expanded
from hwnas.searching.loop import Status


def summary_writer() -> type[Any]:
    """What writes for TensorBoard; MissingExtraError without it."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise MissingExtraError("tensorboard", "tensorboard") from None
    return SummaryWriter


class TensorBoard:
    """Writes scalars by the number of evaluations into a folder; `tensorboard --logdir FOLDER` shows them."""

    def __init__(self, folder: str | Path) -> None:
        self._writer = summary_writer()(str(expanded(folder)))

    def __call__(self, status: Status) -> None:
        scalars = {"hypervolume": status.hypervolume, "failed": status.failed, "front": len(status.front)}
        scalars |= {f"kendall_tau/{metric}": tau for metric, tau in status.kendall_tau.items()}
        for column, objective in enumerate(status.front.objectives):
            values = status.front.points[:, column]
            if len(values):
                best = values.max() if objective.direction == "max" else values.min()
                scalars[f"best/{objective.name}"] = float(best)
        for name, value in scalars.items():
            if math.isfinite(value):
                self._writer.add_scalar(name, value, status.done)
        if status.done == status.total:
            self._writer.flush()
