"""Networks as ONNX files, and the check that they compute what torch computes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hwnas.errors import ExportError
from hwnas.networks.blocks import StaticNetwork, folded_weights
from hwnas.networks.onnx_graph import INPUT, OPSET, OUTPUT, onnx_model
from hwnas.store import write_bytes

TOLERANCE = 1e-4


def export_onnx(
    model: nn.Module,
    path: str | Path,
    input_shape: tuple[int, int, int, int],
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write a network as one ONNX file, checked against torch, and return its path.

    `input_shape` is (batch, channels, height, width) in pixels; the input is called ``input`` and the
    output ``logits``. Networks that hwnas built become the very graph that is timed on devices, batch norm
    folded; any other module goes through torch's exporter. `metadata` goes into the file's properties.
    ExportError when outputs on random images differ by more than 1e-4 of the largest, or for a shape that
    the network is not for.
    """
    batch, *shape = input_shape
    if isinstance(model, StaticNetwork):
        if tuple(shape) != model.input_shape:
            raise ExportError(
                f"input_shape {input_shape} is not what the network is for: {(batch, *model.input_shape)}; "
                "build the architecture in a space of that resolution"
            )
        proto = onnx_model(model.operators, folded_weights(model), batch, metadata)
    else:
        proto = _traced(model, input_shape, metadata)
    data = proto.SerializeToString()
    images = torch.from_numpy(np.random.default_rng(0).standard_normal(input_shape, dtype=np.float32))
    check_onnx(data, model, images)
    write_bytes(path, data)
    return Path(path)


def check_onnx(data: bytes, model: nn.Module, images: Tensor) -> float:
    """The largest difference between ONNX Runtime and torch on images, as a share of the largest output.

    ExportError above 1e-4: the file does not compute what the network computes.
    """
    with torch.no_grad():
        expected = model.eval()(images).float().numpy()
    actual = onnx_logits(data, images.numpy())
    difference = float(np.abs(actual - expected).max() / max(float(np.abs(expected).max()), 1e-6))
    if not difference <= TOLERANCE:
        raise ExportError(f"ONNX Runtime differs from torch by {difference:.1e}, allowed is {TOLERANCE:.0e}")
    return difference


def onnx_logits(data: bytes, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """ONNX Runtime's outputs, (n, classes), on images (n, c, h, w), in batches of the file's own size.

    The last batch is filled up with copies of the first image, whose outputs are dropped.
    """
    return _outputs(_session(data), images)


def onnx_accuracy(data: bytes, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Top-1 accuracy in percent, by ONNX Runtime, on batches of images (k, c, h, w) and labels (k,)."""
    session, right, total = _session(data), 0, 0
    for images, labels in batches:
        right += int((_outputs(session, images.numpy()).argmax(1) == labels.numpy()).sum())
        total += len(labels)
    return 100.0 * right / total


def _session(data: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def _outputs(session: onnxruntime.InferenceSession, images: NDArray[np.float32]) -> NDArray[np.float32]:
    declared = session.get_inputs()[0].shape[0]
    batch = declared if isinstance(declared, int) else len(images)
    filled = np.concatenate([images, images[np.zeros(-len(images) % batch, dtype=int)]])
    runs = [session.run([OUTPUT], {INPUT: filled[i : i + batch]})[0] for i in range(0, len(filled), batch)]
    return np.concatenate(runs)[: len(images)]


def _traced(
    model: nn.Module, input_shape: tuple[int, ...], metadata: Mapping[str, str] | None
) -> onnx.ModelProto:
    program = torch.onnx.export(
        model.eval(),
        (torch.zeros(input_shape),),
        input_names=[INPUT],
        output_names=[OUTPUT],
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )
    if program is None:
        raise ExportError("torch's exporter returned nothing")
    proto = program.model_proto
    if metadata:
        onnx.helper.set_model_props(proto, dict(metadata))
    return proto
