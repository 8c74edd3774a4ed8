"""Networks as ONNX files, and the check that they compute what torch computes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from hwnas.errors import ExportError
from hwnas.export.checks import Images, Logits, check_outputs, in_batches, top1_by
from hwnas.files import expanded
from hwnas.networks.blocks import StaticNetwork, folded_weights
from hwnas.ops.onnx import INPUT, OPSET, OUTPUT, onnx_model
from hwnas.store import write_output
from hwnas.training.evaluation import Batches, Top1Result


def export_onnx(
    model: nn.Module,
    path: str | Path,
    input_shape: tuple[int, int, int, int],
    metadata: Mapping[str, str] | None = None,
    dynamic_batch: bool = False,
) -> Path:
    """Write a network as one ONNX file, checked against torch, and return its path.

    `input_shape` is (batch, channels, height, width) in pixels; the input is called ``input`` and the
    output ``logits``. With `dynamic_batch` the file takes any number of images, whatever `batch` says: the
    first dimension of both is called ``batch``. Networks that hwnas built become the very graph that is
    timed on devices, batch norm folded; any other module goes through torch's exporter. `metadata` goes into
    the file's properties. ExportError when ONNX's checker refuses the file, when outputs on random images
    differ by more than 1e-4 of the largest, or for a shape that the network is not for; EvaluationError when
    outputs on random images are NaN or infinite.
    """
    batch, *shape = input_shape
    if isinstance(model, StaticNetwork):
        if tuple(shape) != model.input_shape:
            raise ExportError(
                f"input_shape {input_shape} is not what the network is for: {(batch, *model.input_shape)}; "
                "build the architecture in a space of that resolution"
            )
        size = None if dynamic_batch else batch
        proto = onnx_model(model.operators, folded_weights(model), size, metadata)
    else:
        proto = _traced(model, input_shape, metadata, dynamic_batch)
    data = proto.SerializeToString()
    for checked in (1, 3) if dynamic_batch else (batch,):
        images = np.random.default_rng(0).standard_normal((checked, *shape), dtype=np.float32)
        check_onnx(data, model, torch.from_numpy(images))
    write_output(path, data)
    return expanded(path)


def check_onnx(data: bytes, model: nn.Module, images: Tensor) -> float:
    """The largest difference between ONNX Runtime and torch on images, as a share of the largest output.

    ExportError above 1e-4: the file does not compute what the network computes. EvaluationError if torch's
    outputs are NaN or infinite.
    """
    return check_outputs(_runs(data), model, images, "ONNX Runtime")


def with_metadata(data: bytes, metadata: Mapping[str, str]) -> bytes:
    """A serialised model with these properties beside those that it has, or in their place."""
    model = onnx.load_from_string(data)
    known = {prop.key: prop.value for prop in model.metadata_props}
    onnx.helper.set_model_props(model, {**known, **metadata})
    serialised: bytes = model.SerializeToString()
    return serialised


def onnx_logits(data: bytes, images: Images) -> Images:
    """ONNX Runtime's outputs, (n, classes), on images (n, c, h, w), in batches of the file's own size."""
    return _runs(data)(images)


def onnx_accuracy(data: bytes, batches: Batches) -> float:
    """Top-1 accuracy in percent, by ONNX Runtime, on batches of images (k, c, h, w) and labels (k,)."""
    return onnx_top1(data, batches).accuracy


def onnx_top1(data: bytes, batches: Batches, name: str = "the network") -> Top1Result:
    """Classify batches of images (k, c, h, w) with labels (k,) by ONNX Runtime; see `top1`."""
    return top1_by(_runs(data), batches, name)


def _runs(data: bytes) -> Logits:
    """What a serialised model computes by ONNX Runtime."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    declared = session.get_inputs()[0].shape[0]
    size = declared if isinstance(declared, int) else None

    def run(images: Images) -> Images:
        outputs: Images = session.run([OUTPUT], {INPUT: images})[0]
        return outputs

    return lambda images: in_batches(run, size, images)


def _traced(
    model: nn.Module, input_shape: tuple[int, ...], metadata: Mapping[str, str] | None, dynamic_batch: bool
) -> onnx.ModelProto:
    # Torch takes sizes 0 and 1 of an example for constants.
    example = torch.zeros((max(2, input_shape[0]), *input_shape[1:]) if dynamic_batch else input_shape)
    program = torch.onnx.export(
        model.eval(),
        (example,),
        input_names=[INPUT],
        output_names=[OUTPUT],
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
        dynamic_shapes=({0: torch.export.Dim("batch")},) if dynamic_batch else None,
    )
    if program is None:
        raise ExportError("torch's exporter returned nothing")
    proto = program.model_proto
    if metadata:
        onnx.helper.set_model_props(proto, dict(metadata))
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"ONNX's checker refuses what torch exported: {error}") from None
    return proto
