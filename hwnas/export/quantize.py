"""Exported models in 8 bits, by ONNX Runtime's static quantisation.

Activations become unsigned, weights signed integers of 8 bits, weights with a scale an output channel
(https://arxiv.org/abs/2004.09602), in the QDQ form that every runtime of ONNX reads. The range of an
activation is taken from training images, by the first of these that costs no more accuracy than allowed:

    minmax       the smallest and the largest value
    percentile   without the 0.01 % largest and smallest values
    entropy      as clipped as changes the distribution least (Kullback-Leibler divergence)

If none of them does, operators stay in single precision, the most sensitive first, by the best of them.
Accuracy is that of ONNX Runtime on the machine that exports: x86 processors without VNNI saturate in sums of
8-bit products, which shows there or, if the device is such a one elsewhere, not at all.
Whether a quantised model is worth having is then decided by a measurement; see `decide`.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

from hwnas.export.compare import Comparison
from hwnas.export.onnx import onnx_accuracy, onnx_logits
from hwnas.networks.onnx_graph import INPUT, OPERATORS, parts
from hwnas.store import temporary_folder
from hwnas.training.data import Dataset
from hwnas.training.evaluation import EVALUATION_BATCH

METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "percentile": CalibrationMethod.Percentile,
    "entropy": CalibrationMethod.Entropy,
}
PERCENTILE = 99.99
CALIBRATION_IMAGES = 256
SENSITIVITY_IMAGES = 64
HELD_IMAGES = 16  # whose activations are in memory at once
ONLY_FP32 = (OPERATORS, "predicted_latency_ms")  # properties that are not true of a model in 8 bits
EXCLUDED = 0.5  # share of the operators that may stay in single precision

Images = NDArray[np.float32]


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
    SpaceError for a model that `onnx_model` did not make.
    """
    operators = parts(onnx.load_from_string(data))[0]
    tried: list[Quantized] = []

    def best(method: str, excluded: Sequence[int]) -> Quantized:
        made = quantized(data, images, method, excluded)
        keys = tuple(operators[i].key for i in excluded)
        tried.append(Quantized(made, method, keys, accuracy(made), 1))
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
    return found


def by_sensitivity(data: bytes, images: Images, operators: int) -> list[int]:
    """The positions of a model's operators, first the one that alone in 8 bits changes the outputs most."""
    expected = onnx_logits(data, images)
    errors = []
    for i in range(operators):
        others = [j for j in range(operators) if j != i]
        found = onnx_logits(quantized(data, images, "minmax", others), images)
        errors.append(float(np.square(found - expected).mean()))
    return sorted(range(operators), key=lambda i: -errors[i])


def quantized(data: bytes, images: Images, method: str, excluded: Sequence[int] = ()) -> bytes:
    """A serialised model of hwnas in 8 bits, but for the operators at the positions `excluded`."""
    model = onnx.load_from_string(data)
    props = {prop.key: prop.value for prop in model.metadata_props if prop.key not in ONLY_FP32}
    # What pre-processing would do to a model is done in those of hwnas; this keeps it from asking for it.
    onnx.helper.set_model_props(model, {"onnx.quant.pre_process": "onnxruntime.quant"})
    kept = [node.name for node in model.graph.node if int(node.name.split(".")[0]) in excluded]
    batch = model.graph.input[0].type.tensor_type.shape.dim[0].dim_value or 1
    reader = _Reader(images, batch)
    with _quiet(), temporary_folder() as folder:
        path = folder / "quantized.onnx"
        quantize_static(
            model,
            path,
            reader,
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=kept,
            calibrate_method=METHODS[method],
            extra_options={
                "CalibTensorRangeSymmetric": False,
                "CalibPercentile": PERCENTILE,
                "CalibStridedMinMax": reader.held,
            },
        )
        made = onnx.load(path)
    onnx.helper.set_model_props(made, props)
    onnx.checker.check_model(made, full_check=True)
    serialised: bytes = made.SerializeToString()
    return serialised


class _Reader:
    """Calibration images as ONNX Runtime reads them: one feed a batch, a range of batches at a time.

    `held` batches are in memory together; it divides their number.
    """

    def __init__(self, images: Images, batch: int) -> None:
        whole = images if len(images) >= batch else np.resize(images, (batch, *images.shape[1:]))
        batches = [whole[i : i + batch] for i in range(0, len(whole) - batch + 1, batch)]
        self.held = min(max(1, HELD_IMAGES // batch), len(batches))
        self._batches = batches[: len(batches) // self.held * self.held]
        self._left: Iterator[Images] = iter(self._batches)

    def __len__(self) -> int:
        return len(self._batches)

    def set_range(self, start_index: int, end_index: int) -> None:
        """What is read next: batches from one number up to another."""
        self._left = iter(self._batches[start_index:end_index])

    def get_next(self) -> dict[str, Images] | None:
        """The next feed; None at the end."""
        batch = next(self._left, None)
        return None if batch is None else {INPUT: batch}


@contextmanager
def _quiet() -> Iterator[None]:
    """Without ONNX Runtime's prints, and without the handler that its warnings give to the root logger."""
    handler = logging.NullHandler()
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        root.removeHandler(handler)


# ---- whether it is worth having -------------------------------------------------------------------


def candidate_of(
    data: bytes, splits: tuple[Dataset, Dataset, Dataset], resolution: int, allowed: float, seed: int
) -> tuple[dict[str, Any], bytes]:
    """The `int8` of the entry of an exported model, which is a candidate, and the best model in 8 bits.

    It may cost `allowed` points of validation accuracy. `splits` are train, from which `seed` draws the
    images that calibrate, validation, and test.
    """
    train, validation, test = splits

    def accuracy(model: bytes) -> float:
        return onnx_accuracy(model, validation.batches(EVALUATION_BATCH, resolution))

    drawn = train.subset(CALIBRATION_IMAGES, seed).batches(EVALUATION_BATCH, resolution)
    images = np.concatenate([batch.numpy() for batch, _ in drawn])
    before = accuracy(data)
    found = quantize(data, images, accuracy, before - allowed)
    tested = [onnx_accuracy(m, test.batches(EVALUATION_BATCH, resolution)) for m in (data, found.data)]
    return {
        "status": "candidate",
        "reason": "not measured yet",
        "calibration": found.method,
        "excluded": list(found.excluded),
        "attempts": found.attempts,
        "max_accuracy_loss": allowed,
        "validation_accuracy": {"fp32": before, "int8": found.accuracy},
        "test_accuracy": {"fp32": tested[0], "int8": tested[1]},
        "latency_ms": None,
        "latency_ci_ms": None,
        "speedup": None,
        "speedup_ci": None,
    }, found.data


def decide(candidate: Mapping[str, Any], found: Comparison) -> dict[str, Any]:
    """A candidate's `int8` with its status: "kept" if it is accurate and faster beyond doubt, else "dropped".

    `found` compares it with the model in single precision, on the run's device.
    """
    accuracy, allowed = candidate["validation_accuracy"], candidate["max_accuracy_loss"]
    accurate = accuracy["int8"] >= accuracy["fp32"] - allowed
    attempts = f", the least of {candidate['attempts']} attempts" if candidate["attempts"] > 1 else ""
    loss = f"costs {accuracy['fp32'] - accuracy['int8']:.2f} points of validation accuracy{attempts}"
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
