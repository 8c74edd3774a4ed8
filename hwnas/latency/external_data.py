"""Weights that an ONNX model keeps in files beside it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

from hwnas.errors import StoreError


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
