"""Datasets, normalised and ready for the network.

    data = load_dataset("cluttered-digits", split="test", seed=0)
    data.images, data.labels, data.classes

`cluttered-digits` is made on the spot from scikit-learn's bundled handwritten digits; `cifar10` reads
CIFAR-10 in the forms in which it is handed on; `imagefolder` reads a folder of class folders, and streams it
where it does not fit into memory. A new dataset is one function and one line in `DATASETS`. `from_loader`
takes any torch DataLoader.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hwnas.config import GIVEN_DATA
from hwnas.errors import DataError, known_names
from hwnas.files import expanded
from hwnas.training.data.base import SPLITS, Dataset, Source, Split, check_files, check_splits, resize
from hwnas.training.data.cifar10 import cifar10
from hwnas.training.data.digits import cluttered_digits
from hwnas.training.data.folders import imagefolder
from hwnas.training.data.loaders import from_loader
from hwnas.training.data.stored import Check, Held

__all__ = [
    "DATASETS",
    "SPLITS",
    "Check",
    "Dataset",
    "Held",
    "Split",
    "check_files",
    "check_splits",
    "describe_dataset",
    "from_loader",
    "load_dataset",
    "read_dataset",
    "resize",
]

DATASETS: dict[str, Callable[..., Source]] = {
    "cluttered-digits": cluttered_digits,
    "cifar10": cifar10,
    "imagefolder": imagefolder,
}


def load_dataset(name: str, split: Split = "train", seed: int = 0, **parameters: Any) -> Dataset:
    """A split ("train", "validation" or "test") of the dataset of this name, the same for the same seed.

    `parameters` are those of the dataset's function. DataError for an unknown name, split or parameter,
    and for data that is missing or unusable.
    """
    return read_dataset(name, split, seed, parameters)


def read_dataset(
    name: str, split: Split, seed: int, parameters: Mapping[str, Any], check: Check | None = None
) -> Dataset:
    """Read a split like `load_dataset`, with the parameters in a mapping, where any name may stand.

    Args:
        name: The name of the dataset.
        split: The split.
        seed: The seed of what is drawn.
        parameters: The parameters of the dataset's function.
        check: How files are checked.

    Returns:
        The split.

    Raises:
        DataError: for an unknown name, split or parameter, and for data that is missing or unusable.
    """
    found = _source(name, split, seed, parameters)
    stored = found.stored(check or Check())
    return Dataset(
        stored,
        torch.from_numpy(np.delete(found.labels, list(stored.left_out.values()))),
        found.classes,
        found.mean,
        found.std,
        {"name": name, "split": split, "seed": seed, **parameters},
        found.preparation,
        found.reader,
    )


def describe_dataset(name: str, seed: int, parameters: Mapping[str, Any]) -> tuple[tuple[str, ...], int]:
    """Classes and number of channels of a dataset, without reading or making an image."""
    found = _source(name, "train", seed, parameters)
    return found.classes, len(found.mean)


def _source(name: str, split: Split, seed: int, parameters: Mapping[str, Any]) -> Source:
    """What the dataset's function finds; DataError for an unknown name, split or parameter."""
    if name == GIVEN_DATA:
        raise DataError("the data of this run was given in Python; go on there: hwnas.run(…, data=…)")
    if name not in DATASETS:
        raise DataError(f"unknown dataset {name!r}; {known_names(name, DATASETS)}")
    if split not in SPLITS:
        raise DataError(f"unknown split {split!r}; {known_names(split, SPLITS)}")
    known = dict(list(inspect.signature(DATASETS[name]).parameters.items())[2:])  # after split and seed
    for parameter in parameters:
        if parameter not in known:
            raise DataError(f"{name}: unknown parameter {parameter!r}; {known_names(parameter, known)}")
    for parameter, declared in known.items():
        if declared.default is inspect.Parameter.empty and parameter not in parameters:
            raise DataError(f"{name}: parameter {parameter!r} is missing; give it beside the name")
    if isinstance(path := parameters.get("path"), (str, Path)):
        parameters = {**parameters, "path": expanded(path)}
    return DATASETS[name](split, seed, **parameters)
