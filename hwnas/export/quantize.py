"""Exported models in 8 bits, by ONNX Runtime's static quantisation.

Ranges of activations are taken from training images, by the first of the methods of
`hwnas.networks.quantization` that costs no more accuracy than allowed. If none of them does, operators stay
in single precision, the most sensitive first, by the best of them.
Accuracy is that of ONNX Runtime on the machine that exports: x86 processors without VNNI saturate in sums of
8-bit products, which shows there or, if the device is such a one elsewhere, not at all.
Whether a quantised model is worth having is then decided by a measurement; see `decide`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from hwnas.errors import EvaluationError
from hwnas.export.compare import Comparison
from hwnas.export.onnx import onnx_logits, onnx_top1
from hwnas.networks.blocks import folded_weights
from hwnas.networks.quantization import METHODS, Images, quantized
from hwnas.ops.onnx import onnx_model, parts
from hwnas.spaces import Architecture
from hwnas.training.data import Dataset
from hwnas.training.evaluation import EVALUATION_BATCH, AccuracyEvaluator, Top1Result, check_finite

CALIBRATION_IMAGES = 256
SENSITIVITY_IMAGES = 64
EXCLUDED = 0.5  # share of the operators that may stay in single precision


@dataclass(frozen=True)
class Quantized:
    """A model in 8 bits, serialised, and how it was made.

    `method` is one of `METHODS`, `excluded` the keys of the operators that stay in single precision,
    `accuracy` in percent, `attempts` how many models were tried.
    """

    data: bytes
    method: str
    excluded: tuple[str, ...]
    accuracy: float
    attempts: int


def quantize(
    data: bytes, images: Images, accuracy: Callable[[bytes], float], required_accuracy: float
) -> Quantized:
    """A serialised model of hwnas in 8 bits: the first attempt with `required_accuracy`, else the best one.

    `images` (n, c, h, w), normalised, calibrate it; `accuracy` of a serialised model is in percent.
    An attempt for which `accuracy` raises EvaluationError has failed. SpaceError for a model that
    `onnx_model` did not make; EvaluationError if the outputs of the model on `images` are not finite, or
    every attempt failed.
    """
    _check_calibration(data, images)
    operators = parts(onnx.load_from_string(data))[0].operators
    tried: list[Quantized] = []

    def accuracy_or_failure(model: bytes) -> float:
        try:
            return accuracy(model)
        except EvaluationError:
            return -math.inf

    def best(method: str, excluded: Sequence[int]) -> Quantized:
        made = quantized(data, images, method, excluded)
        keys = tuple(operators[i].key for i in excluded)
        tried.append(Quantized(made, method, keys, accuracy_or_failure(made), 1))
        return replace(max(tried, key=lambda attempt: attempt.accuracy), attempts=len(tried))

    for method in METHODS:
        found = best(method, ())
        if found.accuracy >= required_accuracy:
            return found
    method, ranked = found.method, by_sensitivity(data, images[:SENSITIVITY_IMAGES], len(operators))
    number = 1
    while number <= EXCLUDED * len(operators):
        found = best(method, sorted(ranked[:number]))
        if found.accuracy >= required_accuracy:
            break
        number *= 2
    if found.accuracy == -math.inf:
        raise EvaluationError(f"the outputs are NaN or infinite in all {found.attempts} attempts to quantise")
    return found


def by_sensitivity(data: bytes, images: Images, operators: int) -> list[int]:
    """The positions of a model's operators, first the one that alone in 8 bits changes the outputs most."""
    expected = onnx_logits(data, images)
    errors = []
    for i in range(operators):
        others = [j for j in range(operators) if j != i]
        found = onnx_logits(quantized(data, images, "minmax", others), images)
        error = float(np.square(found - expected).mean())
        errors.append(error if math.isfinite(error) else math.inf)
    return sorted(range(operators), key=lambda i: -errors[i])


# ---- networks that the search asks for in 8 bits -----------------------------------------------------


class PrecisionEvaluator:
    """Accuracy of networks of a supernet, each in its precision: ``evaluator(archs)`` has shape (n,).

    In 8 bits they are what is exported; ranges are smallest and largest values on training images.
    """

    def __init__(self, evaluator: AccuracyEvaluator, seed: int) -> None:
        """`seed` draws the images that calibrate, of those that calibrate batch norms."""
        self.evaluator = evaluator
        self._calibration_data = evaluator.calibration_data.subset(CALIBRATION_IMAGES, seed)
        self._images: dict[int, Images] = {}  # that calibrate, by resolution

    def __call__(self, archs: Sequence[Architecture]) -> NDArray[np.float64]:
        """(n,) validation accuracy in percent: by torch in single precision, by ONNX Runtime in 8 bits."""
        return np.array([self.accuracy(arch) for arch in archs], dtype=np.float64)

    def accuracy(self, arch: Architecture) -> float:
        """Percent of one network."""
        space = self.evaluator.net.space
        if space.precision(arch) == "fp32":
            return self.evaluator.accuracy(arch)
        network = self.evaluator.net.extract(arch, self.evaluator.statistics(arch))
        data = onnx_model(network.network, folded_weights(network)).SerializeToString()
        batches = ((images.cpu(), labels.cpu()) for images, labels in self.evaluator.batches(arch))
        name = self.evaluator.title(arch)
        return onnx_top1(self.quantized(data, space.resolution(arch)), batches, name).accuracy

    def quantized(self, data: bytes, resolution: int) -> bytes:
        """A serialised model in 8 bits, whose input has this resolution."""
        if resolution not in self._images:
            self._images[resolution] = _images(self._calibration_data, resolution)
        _check_calibration(data, self._images[resolution])
        return quantized(data, self._images[resolution], "minmax")


# ---- whether it is worth having -------------------------------------------------------------------


def candidate_of(
    data: bytes, splits: tuple[Dataset, Dataset, Dataset], resolution: int, allowed: float, seed: int
) -> tuple[dict[str, Any], bytes]:
    """The `int8` of the entry of an exported model, which is a candidate, and the best model in 8 bits.

    It may cost `allowed` points of validation accuracy. `splits` are train, from which `seed` draws the
    images that calibrate, validation, and test. EvaluationError if no model in 8 bits has finite outputs.
    """
    train, validation, test = splits

    def on(data: Dataset, model: bytes) -> Top1Result:
        return onnx_top1(model, data.batches(EVALUATION_BATCH, resolution), f"the model on {data.title}")

    validated: dict[bytes, Top1Result] = {}

    def accuracy(model: bytes) -> float:
        validated[model] = on(validation, model)
        return validated[model].accuracy

    images = _images(train.subset(CALIBRATION_IMAGES, seed), resolution)
    before = accuracy(data)
    found = quantize(data, images, accuracy, before - allowed)
    tested = on(test, found.data)
    return {
        "status": "candidate",
        "reason": "not measured yet",
        "calibration": found.method,
        "excluded": list(found.excluded),
        "attempts": found.attempts,
        "max_accuracy_loss": allowed,
        "validation_accuracy": {"fp32": before, "int8": found.accuracy},
        "test_accuracy": {"fp32": on(test, data).accuracy, "int8": tested.accuracy},
        "class_accuracy": {
            "validation": validated[found.data].by_class(validation.classes),
            "test": tested.by_class(test.classes),
        },
        "latency_ms": None,
        "latency_ci_ms": None,
        "speedup": None,
        "speedup_ci": None,
    }, found.data


def _check_calibration(data: bytes, images: Images) -> None:
    """Raise EvaluationError if the outputs of a model on calibration images are NaN or infinite.

    ONNX Runtime finds no ranges then, or ranges of which nothing is computed.
    """
    finite = np.isfinite(onnx_logits(data, images)).all(1)
    check_finite(finite, "the model in single precision on the calibration images")


def _images(data: Dataset, resolution: int) -> Images:
    """All images of a dataset, at a resolution."""
    return np.concatenate([batch.numpy() for batch, _ in data.batches(EVALUATION_BATCH, resolution)])


def decide(candidate: Mapping[str, Any], found: Comparison) -> dict[str, Any]:
    """A candidate's `int8` with its status: "kept" if it is accurate and faster beyond doubt, else "dropped".

    `found` compares it with the model in single precision, on the run's device.
    """
    accuracy, allowed = candidate["validation_accuracy"], candidate["max_accuracy_loss"]
    accurate = accuracy["int8"] >= accuracy["fp32"] - allowed
    attempts = f", the least of {candidate['attempts']} attempts" if candidate["attempts"] > 1 else ""
    lost = accuracy["fp32"] - accuracy["int8"]
    loss = f"{'costs' if lost >= 0 else 'gains'} {abs(lost):.2f} points of validation accuracy{attempts}"
    texts = [
        f"{ms:.4g} ms ({low:.4g} to {high:.4g})"
        for ms, (low, high) in ((found.new_ms, found.new_ci_ms), (found.old_ms, found.old_ci_ms))
    ]
    low, high = found.speedup_ci
    speed = (
        f"{found.speedup:.2f} times as fast (95 %: {low:.2f} to {high:.2f}), {texts[0]} instead of {texts[1]}"
    )
    said = [
        loss if accurate else f"{loss}; allowed are {allowed:g}",
        speed if found.faster else f"not faster beyond doubt: {speed}",
    ]
    return {
        **candidate,
        "status": "kept" if accurate and found.faster else "dropped",
        "reason": "; ".join(said),
        "latency_ms": {"fp32": found.old_ms, "int8": found.new_ms},
        "latency_ci_ms": {"fp32": list(found.old_ci_ms), "int8": list(found.new_ci_ms)},
        "speedup": found.speedup,
        "speedup_ci": list(found.speedup_ci),
    }
