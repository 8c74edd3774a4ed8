"""ONNX models of hwnas in 8 bits, by ONNX Runtime's static quantisation. No torch in here.

Activations become unsigned, weights signed integers of 8 bits, weights with a scale an output channel
(https://arxiv.org/abs/2004.09602), in the QDQ form that every runtime of ONNX reads. The range of an
activation is taken from images that calibrate, by one of `METHODS`:

    minmax       the smallest and the largest value
    percentile   without the 0.01 % largest and smallest values
    entropy      as clipped as changes the distribution least (Kullback-Leibler divergence)
"""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

from hwnas.ops.network import INPUT, Network, as_network, random_inputs
from hwnas.ops.onnx import CONNECTIONS, OPERATORS, Weights, onnx_model
from hwnas.spaces import Operator
from hwnas.store import temporary_folder

METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "percentile": CalibrationMethod.Percentile,
    "entropy": CalibrationMethod.Entropy,
}
PERCENTILE = 99.99
HELD_IMAGES = 16  # whose activations are in memory at once
# Properties that are not true of a model in 8 bits.
ONLY_FP32 = (OPERATORS, CONNECTIONS, "predicted_latency_ms")

Images = NDArray[np.float32]


def timed_model(
    network: Network | Sequence[Operator], weights: Sequence[Weights], batch_size: int = 1
) -> bytes:
    """A network, or a chain of operators, all in fp32 or all in int8, as a serialised model to be timed.

    In 8 bits it is calibrated on noise: what it computes is of no use, how long that takes is the same.
    SpaceError as in `onnx_model`, and for operators of several precisions.
    """
    network = as_network(network)
    if {operator.precision for operator in network.operators} != {"int8"}:
        return bytes(onnx_model(network, weights, batch_size).SerializeToString())
    data = onnx_model(network.with_precision("fp32"), weights, batch_size).SerializeToString()
    return quantized(data, random_inputs(network.inputs, batch_size), "minmax")


def quantized(
    data: bytes, images: Images | Mapping[str, NDArray[Any]], method: str, excluded: Sequence[int] = ()
) -> bytes:
    """A serialised model of hwnas in 8 bits, but for the operators at the positions `excluded`.

    It is calibrated on `images` (n, c, h, w), or on all inputs (n, …) by name.
    """
    model = onnx.load_from_string(data)
    props = {prop.key: prop.value for prop in model.metadata_props if prop.key not in ONLY_FP32}
    # What pre-processing would do to a model is done in those of hwnas; this keeps it from asking for it.
    onnx.helper.set_model_props(model, {"onnx.quant.pre_process": "onnxruntime.quant"})
    kept = [node.name for node in model.graph.node if int(node.name.split(".")[0]) in excluded]
    batch = model.graph.input[0].type.tensor_type.shape.dim[0].dim_value or 1
    reader = _Reader(images if isinstance(images, Mapping) else {INPUT: images}, batch)
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
    """Calibration inputs as ONNX Runtime reads them: one feed a batch, a range of batches at a time.

    `held` batches are in memory together; it divides their number.
    """

    def __init__(self, inputs: Mapping[str, NDArray[Any]], batch: int) -> None:
        whole = {
            name: array if len(array) >= batch else np.resize(array, (batch, *array.shape[1:]))
            for name, array in inputs.items()
        }
        samples = min(map(len, whole.values()))
        batches = [
            {name: array[i : i + batch] for name, array in whole.items()}
            for i in range(0, samples - batch + 1, batch)
        ]
        self.held = min(max(1, HELD_IMAGES // batch), len(batches))
        self._batches = batches[: len(batches) // self.held * self.held]
        self._left = iter(self._batches)

    def __len__(self) -> int:
        return len(self._batches)

    def set_range(self, start_index: int, end_index: int) -> None:
        """What is read next: batches from one number up to another."""
        self._left = iter(self._batches[start_index:end_index])

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        """The next feed; None at the end."""
        return next(self._left, None)


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
