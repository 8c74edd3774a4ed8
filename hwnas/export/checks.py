"""Whether an exported model computes what the network computes, whatever runs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

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
Arrays = Mapping[str, NDArray[Any]]  # inputs (n, …) by name
Samples = TypeVar("Samples", Images, Arrays)


def in_batches(run: Callable[[Samples], Images], size: int | None, samples: Samples) -> Images:
    """Compute the outputs of n samples in batches.

    The last batch is filled up with copies of the first sample, whose outputs are dropped.

    Args:
        run: A function of a batch.
        size: Size of a batch; None for all samples at once.
        samples: Images (n, c, h, w), or inputs (n, …) by name.

    Returns:
        The outputs, (n, …).
    """
    if isinstance(samples, Mapping):
        n = len(next(iter(samples.values())))
        rows = _filled_rows(n, size or n)
        outputs = [run({name: array[part] for name, array in samples.items()}) for part in rows]  # type: ignore[arg-type]
    else:
        n = len(samples)
        outputs = [run(samples[part]) for part in _filled_rows(n, size or n)]
    return np.concatenate(outputs)[:n]


def _filled_rows(n: int, size: int) -> NDArray[np.int64]:
    """Return the rows of n samples in batches, (batches, size); row 0 fills up the last batch."""
    return np.pad(np.arange(n), (0, -n % size)).reshape(-1, size)


def check_outputs(
    logits: Callable[[Any], Images], model: nn.Module, inputs: Tensor | Mapping[str, Tensor], runtime: str
) -> float:
    """Compare the outputs of a runtime with those of torch.

    Args:
        logits: The function that the runtime computes, of arrays like `inputs`.
        model: The network in torch.
        inputs: Images (n, c, h, w), or inputs (n, …) by name.
        runtime: Name of the runtime in messages.

    Returns:
        The largest difference, as a share of the largest output.

    Raises:
        ExportError: If it is above 1e-4: the file does not compute what the network computes.
        EvaluationError: If outputs of torch are NaN or infinite.
    """
    with torch.no_grad():
        expected = model.eval()(inputs).float().numpy()
    check_finite(np.isfinite(expected).reshape(len(expected), -1).all(1), "the network by torch")
    if isinstance(inputs, Tensor):
        actual = logits(inputs.numpy())
    else:
        actual = logits({name: tensor.numpy() for name, tensor in inputs.items()})
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
