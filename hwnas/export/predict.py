"""A shipped model used on image files, prepared as its own file says, by ONNX Runtime. No torch in here.

The file's properties that count, all but `channel_order` as JSON: `classes`, the names; `mean` and `std` by
channel of pixels in 0…1; `channel_order`, grey or RGB; `image_size`, (height, width) that an image is cut to
before it is resized to the network's input (without it, it is cut to that at once); `reader`, plain text, how
image files are read (see `hwnas.images`; without it, by the reader of older models, "draft").
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from PIL import Image

from hwnas.errors import DataError, EvaluationError, StoreError
from hwnas.export.sums import check_sum
from hwnas.files import expanded
from hwnas.images import OLD_READER, READER, READERS, fitted
from hwnas.latency.external_data import load_graph
from hwnas.text import one_line

CHANNELS = {"grey": 1, "RGB": 3}
INPUT_TYPES = {"tensor(float16)": "float16", "tensor(float)": "float32", "tensor(double)": "float64"}


@dataclass(frozen=True)
class Preparation:
    """How an image file becomes the input of a network, which is of shape (channels, height, width)."""

    shape: tuple[int, int, int]
    image_size: tuple[int, int]  # (height, width)
    mean: tuple[float, ...]
    std: tuple[float, ...]
    reader: str = READER  # of hwnas.images

    def __call__(self, file: str | Path) -> NDArray[np.float32]:
        """(channels, height, width) of an image file; DataError if it cannot be read."""
        image = fitted(file, self.image_size[1], self.image_size[0], self.reader)
        channels = image.split() if self.shape[0] == 3 else (image.convert("L"),)
        size = (self.shape[2], self.shape[1])
        prepared = []
        for channel, mean, std in zip(channels, self.mean, self.std, strict=True):
            values = (np.asarray(channel, dtype=np.float32) / 255 - np.float32(mean)) / np.float32(std)
            resized = Image.fromarray(values).resize(
                size, Image.Resampling.BILINEAR
            )  # antialiased, in floats
            prepared.append(np.asarray(resized))
        return np.stack(prepared)


class Predictor:
    """A model file that hwnas exported, ready for image files."""

    def __init__(self, model: str | Path, threads: int = 1) -> None:
        """Open a model for prediction.

        Args:
            model: A model.onnx, or the folder that holds it.
            threads: The threads of one inference.

        Raises:
            StoreError: If the file is not a model, uses weights from outside its folder, takes an input that
                is not of floats, or does not say how its images are prepared.
            DataError: If only the program that trained the model can prepare its images.
            ChecksumError: If the file differs from its entry in SHA256SUMS.
        """
        path = expanded(model)
        path = path / "model.onnx" if path.is_dir() else path
        if not path.is_file():
            raise StoreError(
                f"there is no model {path}; give a folder under models/ of a run, or a model.onnx"
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4  # errors are raised; ONNX Runtime need not print them as well
        try:
            load_graph(path)
        except (OSError, DecodeError) as error:
            raise _unreadable(path, error) from None
        check_sum(path)
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its exceptions have no common base class
            raise _unreadable(path, error) from None
        properties = self._session.get_modelmeta().custom_metadata_map
        self._path, self._input = path, self._session.get_inputs()[0]
        if self._input.type not in INPUT_TYPES:
            raise StoreError(
                f"{path} takes an input of {self._input.type}; hwnas predict takes models with an input of "
                f"{', '.join(INPUT_TYPES.values())}: keep such an input when you convert the model"
            )
        self.classes: tuple[str, ...] = tuple(_property(properties, "classes", path))
        self.preparation = _preparation(properties, tuple(self._input.shape[1:]), path)

    def __call__(self, file: str | Path) -> NDArray[np.float64]:
        """Return the probabilities, of shape (classes,), for an image file.

        Raises:
            DataError: If the file cannot be read as an image.
            StoreError: If the model fails on it.
            EvaluationError: If its outputs are NaN or infinite.
        """
        image = self.preparation(expanded(file))
        batch = self._input.shape[0] if isinstance(self._input.shape[0], int) else 1
        with np.errstate(over="ignore"):  # outputs that are not finite are refused below
            filled = np.repeat(image[None], batch, axis=0).astype(INPUT_TYPES[self._input.type])
        try:
            outputs = self._session.run(None, {self._input.name: filled})
        except Exception as error:  # its exceptions have no common base class
            raise StoreError(
                f"{self._path} loads, but fails when it runs: {one_line(error)}; convert or export it again"
            ) from None
        logits = outputs[0][0].astype(np.float64)
        if not np.isfinite(logits).all():
            raise EvaluationError(
                f"the outputs of {self._path} for {file} are NaN or infinite, as in float16 beyond 65504; "
                "use the model in float32, or restore it from a copy"
            )
        exponentials = np.exp(logits - logits.max())
        return np.asarray(exponentials / exponentials.sum())

    def top(self, file: str | Path, n: int) -> list[dict[str, Any]]:
        """The n most probable classes of an image file, most probable first: `class` and `probability`."""
        probabilities = self(file)
        order = np.argsort(-probabilities, kind="stable")[:n]
        return [{"class": self.classes[i], "probability": float(probabilities[i])} for i in order]


def _unreadable(path: Path, error: Exception) -> StoreError:
    return StoreError(f"{path} is not a model that ONNX Runtime can load: {one_line(error)}")


def _property(properties: Mapping[str, str], name: str, path: Path) -> Any:
    """A property of a model file."""
    try:
        return json.loads(properties[name])
    except (KeyError, ValueError):
        raise StoreError(
            f"{path} does not say its {name}: hwnas predict needs a model that `hwnas export` wrote"
        ) from None


def _preparation(properties: Mapping[str, str], shape: tuple[Any, ...], path: Path) -> Preparation:
    """What the properties of a model file with an input of this shape, without the batch, say of images."""
    mean, std = (tuple(_property(properties, name, path)) for name in ("mean", "std"))
    if len(shape) != 3 or not all(isinstance(size, int) for size in shape) or len(mean) != shape[0]:
        raise StoreError(f"{path} takes an input of shape {shape}, not (channels, height, width) of an image")
    order = properties.get("channel_order", "grey" if shape[0] == 1 else "RGB")
    if CHANNELS.get(order) != shape[0]:
        raise DataError(
            f"{path} takes {shape[0]} channels, {order}: only the program that trained it knows how images "
            "become that; prepare them there, and run it with ONNX Runtime as the README.md beside it shows"
        )
    size = _property(properties, "image_size", path) if "image_size" in properties else shape[1:]
    reader = properties.get("reader", OLD_READER)
    if reader not in READERS:
        raise StoreError(
            f"{path} takes images that are read by {reader!r}, this hwnas knows {', '.join(READERS)}; use "
            "the hwnas that exported it"
        )
    return Preparation((shape[0], shape[1], shape[2]), (size[0], size[1]), mean, std, reader)
