from __future__ import annotations

import numpy as np
import pytest
import torch

from hwnas.training.data import SPLITS, load_dataset
from hwnas.training.data import digits as digits_module
from hwnas.training.data.digits import SOURCES

from .small import SMALL


def test_digits_are_ready_for_a_network() -> None:
    for split in SPLITS:
        data = load_dataset("cluttered-digits", split, **SMALL)
        assert data.images.shape == (SMALL[split], 1, 24, 24)
        assert data.images.dtype == torch.float32
        assert data.labels.dtype == torch.int64
        assert data.classes == tuple("0123456789")
        assert set(data.labels.tolist()) == set(range(10))
        assert abs(float(data.images.mean())) < 0.2
        assert 0.8 < float(data.images.std()) < 1.2
        assert data.settings == {"name": "cluttered-digits", "split": split, "seed": 0, **SMALL}
        pixels = (data.images * data.std[0] + data.mean[0]) * 255
        torch.testing.assert_close(pixels, pixels.round(), rtol=0, atol=1e-3)
        assert 0 <= float(pixels.round().min()) <= float(pixels.round().max()) <= 255


def test_digits_follow_the_seed_alone() -> None:
    state = np.random.get_state()[1].copy()  # noqa: NPY002 — that nothing touches it is what is tested
    first, again, other = (load_dataset("cluttered-digits", "test", seed, **SMALL) for seed in (1, 1, 2))
    assert torch.equal(first.images, again.images)
    assert torch.equal(first.labels, again.labels)
    assert first.checksum == again.checksum != other.checksum
    assert np.array_equal(np.random.get_state()[1], state)  # noqa: NPY002


def test_splits_share_no_source_digit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each bundled digit is replaced by an image of its own brightness, which then betrays it."""
    seen: dict[str, set[int]] = {}
    monkeypatch.setattr(digits_module, "load_digits", _numbered_digits)
    monkeypatch.setattr(
        digits_module, "_placed", lambda sources, rng: np.zeros((len(sources), 24, 24), np.float32)
    )

    def spy(sources: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        seen[split] = set(np.rint(sources[:, 0, 0] * 16).astype(int).tolist())
        return np.zeros((len(sources), 24, 24), np.float32)

    monkeypatch.setattr(digits_module, "_placed", spy)
    for split in SPLITS:
        load_dataset("cluttered-digits", split, seed=3, train=20000, validation=5000, test=8000)
    assert {split: len(sources) for split, sources in seen.items()} == SOURCES
    assert len(set.union(*seen.values())) == sum(SOURCES.values()) == 1797


class _numbered_digits:
    target = np.arange(1797) % 10
    target_names = np.arange(10)
    images = np.arange(1797.0)[:, None, None] * np.ones((1, 8, 8))


def test_a_digit_keeps_its_shape_when_placed() -> None:
    sources = np.zeros((50, 8, 8), np.float32)
    sources[:, 2:6, 2:6] = 1
    placed = digits_module._placed(sources, np.random.default_rng(0))
    low, high = (16 * scale**2 for scale in digits_module.DIGIT_SCALE)
    assert placed.max() <= 1
    assert np.all((placed.sum((1, 2)) > 0.9 * low) & (placed.sum((1, 2)) < 1.1 * high))
