"""Networks as ONNX files, and the check that they compute what torch computes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from hwnas.errors import ExportError
from hwnas.export.checks import Arrays, Images, Logits, check_outputs, in_batches, top1_by
from hwnas.files import expanded
from hwnas.networks.blocks import StaticNetwork, folded_weights
from hwnas.ops.network import INPUT, random_inputs
from hwnas.ops.onnx import OPSET, OUTPUT, onnx_model
from hwnas.store import write_output
from hwnas.training.evaluation import Batches, Top1Result


def export_onnx(
    model: nn.Module,
    path: str | Path,
    input_shape: tuple[int, ...] | None = None,
    metadata: Mapping[str, str] | None = None,
    dynamic_batch: bool = False,
) -> Path:
    """Write a network as one ONNX file, checked against torch.

    A network that hwnas built becomes the very graph that is timed on devices, batch norm folded, with the
    inputs that it declares. Any other module of one float32 input goes through torch's exporter. The output
    is called ``logits``, and the input of an image classifier ``input``.

    Args:
        model: The network.
        path: The file to write.
        input_shape: Shape of the first input, such as (batch, channels, height, width). None stands for the
            declared inputs of a network that hwnas built, and a batch of 1.
        metadata: Properties of the file.
        dynamic_batch: Whether the file takes batches of any size; the first dimension of the inputs and of
            the output is then called ``batch``, whatever `input_shape` has.

    Returns:
        The path.

    Raises:
        ExportError: If ONNX's checker refuses the file, outputs on random inputs differ from torch's by more
            than 1e-4 of the largest, or the network is not for this shape.
        EvaluationError: If outputs on random inputs are NaN or infinite.
    """
    if isinstance(model, StaticNetwork):
        batch, *shape = input_shape or (1, *model.input_shape)
        if tuple(shape) != model.input_shape:
            raise ExportError(
                f"input_shape {input_shape} is not what the network is for: {(batch, *model.input_shape)}; "
                f"build the architecture in a space of that {'resolution' if len(shape) == 3 else 'size'}"
            )
        size = None if dynamic_batch else batch
        proto = onnx_model(model.network, folded_weights(model), size, metadata)
    elif input_shape is None:
        raise ExportError(
            f"the input of a {type(model).__name__} is not known; give input_shape, such as (1, 3, 224, 224)"
        )
    else:
        batch, *shape = input_shape
        proto = _traced(model, input_shape, metadata, dynamic_batch)
    data = proto.SerializeToString()
    for checked in (1, 3) if dynamic_batch else (batch,):
        check_onnx(data, model, _random_inputs(model, checked, shape))
    write_output(path, data)
    return expanded(path)


def _random_inputs(model: nn.Module, batch: int, shape: Sequence[int]) -> Tensor | dict[str, Tensor]:
    """Return random images (batch, *shape), or the declared inputs of a network by name."""
    if isinstance(model, StaticNetwork):
        arrays = random_inputs(model.network.inputs, batch)
        return {name: torch.from_numpy(array) for name, array in arrays.items()}
    return torch.from_numpy(np.random.default_rng(0).standard_normal((batch, *shape), dtype=np.float32))


def check_onnx(data: bytes, model: nn.Module, inputs: Tensor | Mapping[str, Tensor]) -> float:
    """Compare ONNX Runtime with torch.

    Args:
        data: A serialised ONNX model.
        model: The network that it was made of.
        inputs: Images (n, c, h, w), or inputs (n, …) by name.

    Returns:
        The largest difference of outputs, as a share of the largest output.

    Raises:
        ExportError: If it is above 1e-4: the file does not compute what the network computes.
        EvaluationError: If outputs of torch are NaN or infinite.
    """
    run = _runs(data) if isinstance(inputs, Tensor) else _runs_inputs(data)
    return check_outputs(run, model, inputs, "ONNX Runtime")


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
    """Return the function from images that a serialised model computes by ONNX Runtime."""
    run = _runs_inputs(data)
    return lambda images: run({INPUT: images})


def _runs_inputs(data: bytes) -> Callable[[Arrays], Images]:
    """Return the function from inputs by name that a serialised model computes by ONNX Runtime."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    declared = session.get_inputs()[0].shape[0]
    size = declared if isinstance(declared, int) else None

    def run(inputs: Arrays) -> Images:
        outputs: Images = session.run([OUTPUT], dict(inputs))[0]
        return outputs

    return lambda inputs: in_batches(run, size, inputs)


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
