from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hwnas.config import Training
from hwnas.training.augmentation import (
    ASPECT,
    OPERATIONS,
    _crop_sides,
    _rotate,
    _translate_x,
    augment,
    crop,
    cutout,
    flip,
    mixup,
    shift,
    trivial_augment,
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def pictures(n: int, channels: int = 3, size: int = 12) -> Tensor:
    """Values in 0…1."""
    return torch.rand(n, channels, size, size, generator=torch.Generator().manual_seed(n))


def test_every_image_is_shifted_whole() -> None:
    images = torch.arange(16 * 2 * 6 * 5.0).reshape(16, 2, 6, 5)
    shifted = shift(images, 1, rng())
    assert shifted.shape == images.shape
    offsets = set()
    for before, after in zip(images, shifted, strict=True):
        found = [
            (down, right)
            for down in (-1, 0, 1)
            for right in (-1, 0, 1)
            if torch.equal(before.roll((down, right), (1, 2))[:, 1:-1, 1:-1], after[:, 1:-1, 1:-1])
        ]
        assert len(found) == 1
        offsets.update(found)
    assert len(offsets) > 4


def test_half_of_the_images_are_mirrored() -> None:
    images = torch.rand(400, 1, 3, 4)
    mirrored = flip(images, rng())
    flipped = [torch.equal(after, before.flip(2)) for before, after in zip(images, mirrored, strict=True)]
    kept = [torch.equal(after, before) for before, after in zip(images, mirrored, strict=True)]
    assert all(f != k for f, k in zip(flipped, kept, strict=True))
    assert 150 < sum(flipped) < 250


def test_a_crop_is_a_part_of_the_image_stretched() -> None:
    """On a ramp, what is left of it is as steep as the part is long, and nothing is black."""
    ramp = torch.linspace(0.2, 0.8, 16).expand(200, 1, 16, 16)
    found = crop(ramp, 0.25, rng())
    steps = found.diff(dim=3)[:, :, 4:-4, 4:-4].mean((1, 2, 3)) / ramp.diff(dim=3).mean()
    assert 0.25 < steps.min() < 0.6 < 0.95 < steps.max() < 1.001
    assert found[:, :, 1:-1, 1:-1].min() > 0.15
    assert torch.allclose(crop(ramp, 1.0, rng()).std((2, 3)), ramp.std((2, 3)), rtol=0.3)


@settings(max_examples=50, deadline=None)
@given(least=st.floats(1e-3, 1), seed=st.integers(0, 10**6))
def test_a_crop_keeps_the_share_that_is_promised(least: float, seed: int) -> None:
    width, height = _crop_sides(500, least, rng(seed))
    assert max(width.max(), height.max()) <= 1
    assert (width * height >= least - 1e-12).all()
    assert (np.maximum(width / height, height / width) <= ASPECT + 1e-12).all()
    if least < 0.5:
        assert (width * height).std() > 0.1
        assert (width / height).std() > 0.1


def test_cutout_blanks_one_square() -> None:
    images = torch.ones(50, 2, 10, 12)
    found = cutout(images, 4, rng())
    for image in found:
        blank = image == 0
        assert torch.equal(blank[0], blank[1])
        rows, columns = blank[0].any(1), blank[0].any(0)
        assert 2 <= rows.sum() <= 4
        assert 2 <= columns.sum() <= 4
        assert torch.equal(blank[0], rows[:, None] & columns[None, :])
    assert len({tuple(image.flatten().tolist()) for image in found}) > 30


def test_mixup_mixes_images_and_labels_alike() -> None:
    labels = torch.arange(6) % 3
    images = torch.nn.functional.one_hot(labels, 3).float()[:, :, None, None].expand(6, 3, 4, 4)
    found, mixed = mixup(images, labels, 3, 0.4, rng())
    assert mixed.shape == (6, 3)
    assert torch.allclose(found, mixed[:, :, None, None].expand(6, 3, 4, 4))
    assert torch.allclose(mixed.sum(1), torch.ones(6))
    assert ((mixed > 0).sum(1) == 2).any()


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("channels", [1, 3])
def test_operations_keep_range_and_shape_and_do_something(name: str, channels: int) -> None:
    images = pictures(6, channels)
    images[0] = 0.5  # nothing to stretch or to spread
    found = OPERATIONS[name](images, np.array([1, -1, 0.5, -0.5, 0.9, 0.1]))
    assert found.shape == images.shape
    assert found.min() >= 0
    assert found.max() <= 1
    unchanged = name == "identity" or (name == "colour" and channels == 1)
    assert torch.allclose(found, images, atol=1e-6) == unchanged


@pytest.mark.parametrize("name", ["shear x", "shear y", "translate x", "translate y", "rotate", "brightness"])
def test_no_strength_no_change(name: str) -> None:
    images = pictures(4)
    assert torch.allclose(OPERATIONS[name](images, np.zeros(4)), images, atol=1e-5)


def test_geometry_is_in_pixels_and_angles() -> None:
    images = pictures(1, 1, 33)
    moved = _translate_x(images, np.array([4 / 32]))
    assert torch.allclose(moved[..., :-4], images[..., 4:], atol=1e-4)
    assert (moved[..., -4:] == 0).all()
    turned = _rotate(images, np.array([math.radians(90) / math.radians(135)]))
    assert min((turned - images.rot90(k, (2, 3))).abs().mean() for k in (1, 3)) < 1e-3


def test_equalize_spreads_levels_evenly() -> None:
    dark = pictures(2, 1, 32) * 0.2
    found = OPERATIONS["equalize"](dark, np.ones(2))
    assert found.max() == 1
    assert found.flatten().quantile(0.5) == pytest.approx(0.5, abs=0.05)


def test_trivial_augment_does_one_operation_on_each_image() -> None:
    images = pictures(200)
    found = trivial_augment(images, rng())
    assert torch.equal(found, trivial_augment(images, rng()))
    changed = sum(not torch.equal(a, b) for a, b in zip(found, images, strict=True))
    assert 140 < changed < 200


def test_settings_name_what_is_done() -> None:
    images, labels = (pictures(8) - 0.5) / 0.2, torch.arange(8) % 4

    def augmented(**settings: object) -> tuple[Tensor, Tensor]:
        return augment(images, labels, 4, (0.5,) * 3, (0.2,) * 3, Training.model_validate(settings), rng())

    same, unmixed = augmented()
    assert same is images
    assert unmixed is labels
    for change in (
        {"crop_padding": 2},
        {"crop_area": 0.3},
        {"flip": True},
        {"trivial_augment": True},
        {"cutout": 4},
        {"mixup": 1.0},
    ):
        found, mixed = augmented(**change)
        assert found.shape == images.shape
        assert not torch.equal(found, images)
        assert (mixed is labels) == ("mixup" not in change)
    # Operations see values in 0…1 and give back what is normalised.
    trivial, _ = augmented(trivial_augment=True)
    assert trivial.min() >= -2.5 - 1e-5
    assert trivial.max() <= 2.5 + 1e-5
