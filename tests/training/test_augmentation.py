from __future__ import annotations

import numpy as np
import torch

from hwnas.training.augmentation import augment


def test_every_image_is_shifted_whole() -> None:
    images = torch.arange(16 * 2 * 6 * 5.0).reshape(16, 2, 6, 5)
    shifted = augment(images, 1, False, np.random.default_rng(0))
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
    mirrored = augment(images, 0, True, np.random.default_rng(0))
    flipped = [torch.equal(after, before.flip(2)) for before, after in zip(images, mirrored, strict=True)]
    kept = [torch.equal(after, before) for before, after in zip(images, mirrored, strict=True)]
    assert all(f != k for f, k in zip(flipped, kept, strict=True))
    assert 150 < sum(flipped) < 250


def test_nothing_asked_nothing_done() -> None:
    images = torch.rand(4, 1, 3, 3)
    assert augment(images, 0, False, np.random.default_rng(0)) is images
