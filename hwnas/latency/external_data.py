"""ONNX files, whose weights may be in other files beside them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
from onnx.external_data_helper import ExternalDataInfo, load_external_data_for_model, uses_external_data

from hwnas.errors import StoreError
from hwnas.files import check_regular

MAX_MODEL_BYTES = (1 << 31) - (1 << 20)  # protobuf's limit of 2 GiB, less room for rewritten shapes


def load_graph(path: Path) -> onnx.ModelProto:
    """Load an ONNX file without the weights in other files.

    Raises:
        StoreError: If the file is larger than protobuf allows, or if weights are in a file outside the
            folder of the model.
        OSError: If the file cannot be read.
        DecodeError: If the file is not an ONNX model.
    """
    check_regular(path)
    _check_size(path, path.stat().st_size)
    model = onnx.load(path, load_external_data=False)
    check_external_data(model, path)
    return model


def load_model(path: Path) -> onnx.ModelProto:
    """Load an ONNX file with all its weights; errors are those of `load_graph`."""
    model = load_graph(path)
    external = 0
    for tensor in _tensors(model):
        if uses_external_data(tensor):
            info = ExternalDataInfo(tensor)
            rest = (path.parent / info.location).stat().st_size - (info.offset or 0)
            external += info.length or rest
    _check_size(path, path.stat().st_size + external)
    load_external_data_for_model(model, str(path.parent))
    return model


def _check_size(path: Path, size: int) -> None:
    """StoreError for a model of too many bytes."""
    if size > MAX_MODEL_BYTES:
        raise StoreError(
            f"{path} has {size / 2**30:.1f} GiB with its weights, and protobuf allows 2 GiB in one model; "
            "use a smaller variant of it, such as one with weights in 8 bits"
        )


def check_external_data(model: onnx.ModelProto, path: Path) -> None:
    """StoreError, naming it, for a file with weights that does not lie in the folder of the model's file.

    A model that somebody else made could otherwise have any file of this machine read, or wait at a pipe.
    """
    folder = path.parent.resolve()
    for tensor in _tensors(model):
        if uses_external_data(tensor):
            location = ExternalDataInfo(tensor).location
            file = folder / location
            inside = not Path(location).is_absolute() and file.resolve() == file and folder in file.parents
            if not inside or (file.exists() and not file.is_file()):
                raise StoreError(
                    f"{path}: its tensor {tensor.name!r} is in {location!r}, which is not a file in the "
                    "model's own folder; it is not read"
                )


def _tensors(message: Any) -> Iterator[onnx.TensorProto]:
    """All tensors in a message, those of attributes and inner graphs too."""
    for field, value in message.ListFields():
        if field.message_type is not None:
            for part in value if field.is_repeated else [value]:
                if isinstance(part, onnx.TensorProto):
                    yield part
                else:
                    yield from _tensors(part)
