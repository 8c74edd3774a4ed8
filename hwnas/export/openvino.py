"""Exported models in OpenVINO's own format: model.xml, the graph, and model.bin, the weights.

They hold what model.onnx holds, in single precision, and the same properties (``hwnas`` in their runtime
information). Importing OpenVINO reports that to its makers; its command ``opt_in_out --opt_out`` ends that.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx

from hwnas.errors import ExportError, MissingExtraError
from hwnas.export.checks import Images, Logits, in_batches
from hwnas.store import temporary_folder, write_bytes

FILES = ("model.bin", "model.xml")  # the graph, which names the weights, is written last
PROPERTIES = "hwnas"
# Left to itself OpenVINO computes in bf16 where the processor can.
OPTIONS = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1}


def load_openvino() -> Any:
    """The package; MissingExtraError if it is not installed."""
    try:
        import openvino
    except ImportError:
        raise MissingExtraError("openvino", "openvino") from None
    return openvino


def export_openvino(data: bytes, folder: str | Path) -> None:
    """Write model.xml and model.bin of a serialised ONNX model into a folder.

    MissingExtraError without OpenVINO, ExportError if it cannot read the model.
    """
    openvino = load_openvino()
    try:
        converted = openvino.Core().read_model(data)
    except RuntimeError as error:
        raise ExportError(f"OpenVINO cannot read the model: {error}") from None
    for prop in onnx.load_from_string(data).metadata_props:
        converted.set_rt_info(prop.value, [PROPERTIES, prop.key])
    with temporary_folder() as temporary:
        openvino.save_model(converted, temporary / "model.xml", compress_to_fp16=False)
        for name in FILES:
            write_bytes(Path(folder) / name, (temporary / name).read_bytes())


def openvino_logits(folder: str | Path) -> Logits:
    """What the model.xml and model.bin of a folder compute, on the CPU in single precision.

    A function from images (n, c, h, w) to outputs (n, classes). MissingExtraError without OpenVINO,
    ExportError if it cannot load them.
    """
    openvino = load_openvino()
    try:
        compiled = openvino.compile_model(Path(folder) / "model.xml", "CPU", OPTIONS)
    except RuntimeError as error:
        raise ExportError(f"OpenVINO cannot load {folder}/model.xml: {error}") from None
    declared = compiled.input(0).partial_shape[0]
    size = declared.get_length() if declared.is_static else None

    def run(images: Images) -> Images:
        # OpenVINO gives a view of memory that the next call overwrites.
        outputs: Images = compiled(images)[0].copy()
        return outputs

    return lambda images: in_batches(run, size, images)
