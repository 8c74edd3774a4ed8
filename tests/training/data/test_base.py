from __future__ import annotations

import pytest
import torch

from hwnas.errors import DataError
from hwnas.training.data import describe_dataset, load_dataset, read_dataset, resize

from .small import SMALL


def test_wrong_requests_are_refused() -> None:
    with pytest.raises(DataError, match="unknown dataset 'digits'; known: cluttered-digits"):
        load_dataset("digits")
    with pytest.raises(DataError, match="unknown split 'val'; known: train"):
        load_dataset("cluttered-digits", "val")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="unknown parameter 'n'; known: train, validation, test"):
        load_dataset("cluttered-digits", n=3)
    with pytest.raises(DataError, match="parameter 'size' is missing"):
        load_dataset("imagefolder", path="photos")
    for wrong in (0, "many", True, 2.5):
        with pytest.raises(DataError, match=f"train is {wrong!r}; give a positive number of images"):
            load_dataset("cluttered-digits", train=wrong)


@pytest.mark.parametrize("name", ["split", "seed", "name"])
def test_parameters_in_a_mapping_may_have_any_name(name: str) -> None:
    parameters = {**SMALL, name: 3}
    with pytest.raises(DataError, match=f"unknown parameter '{name}'; known: train"):
        read_dataset("cluttered-digits", "test", 0, parameters)
    with pytest.raises(DataError, match=f"unknown parameter '{name}'; known: train"):
        describe_dataset("cluttered-digits", 0, parameters)
    read = read_dataset("cluttered-digits", "test", 7, SMALL)
    assert read.checksum == load_dataset("cluttered-digits", "test", 7, **SMALL).checksum


def test_subset_and_batches() -> None:
    data = load_dataset("cluttered-digits", "validation", **SMALL)
    subset = data.subset(50, rng=0)
    assert len(subset) == 50
    assert torch.equal(subset.images, data.subset(50, rng=0).images)
    assert not torch.equal(subset.images, data.subset(50, rng=1).images)
    assert subset.settings["subset"] == 50
    assert subset.checksum != data.checksum
    sizes = [(tuple(images.shape), len(labels)) for images, labels in subset.batches(32, 16)]
    assert sizes == [((25, 1, 16, 16), 25), ((25, 1, 16, 16), 25)]
    assert torch.equal(torch.cat([labels for _, labels in subset.batches(7)]), subset.labels)
    assert [len(labels) for _, labels in subset.batches(49)] == [25, 25]  # no batch of one image
    assert [len(labels) for _, labels in subset.batches(16)] == [12, 13, 12, 13]
    assert list(subset.subset(0, rng=0).batches(8)) == []


def test_resize() -> None:
    images = torch.rand(2, 3, 24, 24)
    assert resize(images, 24) is images
    assert resize(images, 16).shape == (2, 3, 16, 16)
    checkerboard = (torch.arange(24)[:, None] + torch.arange(24)) % 2 * torch.ones(1, 1, 24, 24)
    assert float(resize(checkerboard, 8).std()) < 0.1  # aliasing would keep it black and white
