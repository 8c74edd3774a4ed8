"""Whether an exported model computes what the network computes, whatever runs it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hwnas.errors import ExportError
from hwnas.training.evaluation import Batches, Top1Result, check_finite, top1

TOLERANCE = 1e-4  # of outputs, as a share of the largest
ACCURACY_TOLERANCE = 0.1  # points of accuracy; one image at least

Images = NDArray[np.float32]
Logits = Callable[[Images], Images]  # (n, c, h, w) to (n, classes), for any n


def in_batches(run: Logits, size: int | None, images: Images) -> Images:
    """What `run` gives for n images (n, c, h, w) when it takes `size` at once; None: as many as there are.

    The last batch is filled up with copies of the first image, whose outputs are dropped.
    """
    size = size or len(images)
    filled = np.concatenate([images, images[np.zeros(-len(images) % size, dtype=int)]])
    return np.concatenate([run(filled[i : i + size]) for i in range(0, len(filled), size)])[: len(images)]


def check_outputs(logits: Logits, model: nn.Module, images: Tensor, runtime: str) -> float:
    """The largest difference of outputs from torch's on images, as a share of the largest output.

    ExportError, naming the runtime, above 1e-4: the file does not compute what the network computes.
    EvaluationError if torch's outputs are NaN or infinite.
    """
    with torch.no_grad():
        expected = model.eval()(images).float().numpy()
    check_finite(np.isfinite(expected).reshape(len(expected), -1).all(1), "the network by torch")
    actual = logits(images.numpy())
    difference = float(np.abs(actual - expected).max() / max(float(np.abs(expected).max()), 1e-6))
    if not difference <= TOLERANCE:
        raise ExportError(f"{runtime} differs from torch by {difference:.1e}, allowed is {TOLERANCE:.0e}")
    return difference


def accuracy_by(logits: Logits, batches: Batches) -> float:
    """Top-1 accuracy in percent on batches of images (k, c, h, w) and labels (k,)."""
    return top1_by(logits, batches).accuracy


def top1_by(logits: Logits, batches: Batches, name: str = "the network") -> Top1Result:
    """Classify batches of images (k, c, h, w) with labels (k,) by a runtime; see `top1`."""
    return top1(lambda images: torch.from_numpy(logits(images.numpy())), batches, name)


def check_accuracy(accuracy: float, expected: float, images: int, runtime: str) -> None:
    """ExportError unless a test accuracy, in percent, is torch's within 0.1 points or one of n images."""
    if abs(accuracy - expected) > max(ACCURACY_TOLERANCE, 100.1 / images):
        raise ExportError(
            f"test accuracy is {accuracy:.2f} % by {runtime} and {expected:.2f} % by torch; "
            f"they may differ by {ACCURACY_TOLERANCE} points"
        )
