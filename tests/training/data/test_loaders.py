from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, SubsetRandomSampler, TensorDataset

from hwnas.errors import DataError
from hwnas.training.data import from_loader

# What torch says of two workers where there is one core.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")

CLASSES = ("cat", "dog", "bird")
IMAGES = torch.randn(20, 3, 8, 6, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(20) % 3


def loader_of(images: Tensor = IMAGES, labels: Tensor = LABELS, **options: Any) -> DataLoader[Any]:
    return DataLoader(TensorDataset(images, labels), batch_size=8, **options)


def test_floats_are_taken_as_they_are() -> None:
    data = from_loader(loader_of(), CLASSES, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.1), preparation="photos")
    assert torch.equal(data.images, IMAGES)
    assert torch.equal(data.labels, LABELS)
    assert (data.classes, data.mean, data.preparation) == (CLASSES, (0.5, 0.4, 0.3), "photos")
    assert data.checksum == from_loader(loader_of(num_workers=2), CLASSES, data.mean, data.std).checksum
    assert data.checksum != from_loader(loader_of(IMAGES + 1), CLASSES, data.mean, data.std).checksum
    double = from_loader(loader_of(IMAGES.double()), CLASSES)
    assert double.images.dtype == torch.float32
    assert (double.mean, double.std) == ((0, 0, 0), (1, 1, 1))


def test_bytes_are_normalised() -> None:
    pixels = torch.randint(
        0, 256, (20, 3, 8, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    torch.testing.assert_close(from_loader(loader_of(pixels), CLASSES).images, pixels / 255)
    normalised = from_loader(loader_of(pixels), CLASSES, mean=(0.5,) * 3, std=(0.25,) * 3).images
    torch.testing.assert_close(normalised, (pixels / 255 - 0.5) / 0.25)


def test_samplers_and_iterable_datasets_count() -> None:
    class Stream(IterableDataset[tuple[Tensor, int]]):
        def __iter__(self) -> Iterator[tuple[Tensor, int]]:
            yield from zip(IMAGES, LABELS.tolist(), strict=True)

    assert torch.equal(from_loader(DataLoader(Stream(), batch_size=8), CLASSES).images, IMAGES)
    some = from_loader(loader_of(sampler=SubsetRandomSampler([3, 5, 7])), CLASSES)
    assert sorted(some.labels.tolist()) == [0, 1, 2]
    assert sum(torch.equal(image, IMAGES[5]) for image in some.images) == 1


def test_memory_that_a_loader_uses_again_is_copied() -> None:
    def reused() -> Iterator[tuple[Tensor, Tensor]]:
        images = torch.zeros(2, 3, 4, 4)
        for i in range(3):
            yield images.fill_(i), torch.tensor([i, i])

    assert from_loader(reused(), CLASSES).images[:, 0, 0, 0].tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize(
    ("loader", "said"),
    [
        (loader_of(labels=LABELS + 1), r"batch 0 .* has the label 3; there are 3 classes, 0 to 2"),
        (loader_of(labels=LABELS.float()), r"labels of \(8,\) float32; give images \(k, c, h, w\)"),
        (loader_of(IMAGES[:, 0]), r"images of \(8, 8, 6\) float32"),
        (loader_of(IMAGES.int()), r"images of \(8, 3, 8, 6\) int32"),
        (DataLoader(TensorDataset(IMAGES)), r"batch 0 of the loader is list, not a sequence of a tensor"),
        (DataLoader(IMAGES), r"batch 0 of the loader is Tensor, not a sequence of a tensor"),
        (
            [(IMAGES, LABELS), (IMAGES[:, :, :7], LABELS)],
            r"batch 1 .* \(20, 3, 7, 6\) float32, the first one of",
        ),
        ([], "the loader is empty"),
    ],
)
def test_what_is_no_dataset_is_refused(loader: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        from_loader(loader, CLASSES)


def test_more_than_the_memory_is_refused() -> None:
    large = [(torch.zeros(2, 3, 256, 256, dtype=torch.uint8), torch.tensor([0, 1]))] * 3
    assert len(from_loader(large, CLASSES, memory_mb=2)) == 6
    with pytest.raises(DataError, match="gives more than memory_mb, 1 MiB, of images; raise it"):
        from_loader(large, CLASSES, memory_mb=1)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    images = IMAGES.clone()
    images[9, 1, 2, 3:5] = value
    images[15] = value
    message = (
        r"2 of 20 images of the validation split have values that are NaN or infinite in float32; the first "
        r"is image 9 \(2 of its 144 values\)\. Correct the transforms"
    )
    with pytest.raises(DataError, match=message):
        from_loader(loader_of(images), CLASSES, split="validation")
    with pytest.raises(DataError, match="2 of 20 images of the data have values"):
        from_loader(loader_of(images), CLASSES)


def test_values_beyond_float32_are_refused() -> None:
    images = IMAGES.double()
    images[4, 0, 0, 0] = 1e300
    with pytest.raises(DataError, match=r"1 of 20 images .* infinite in float32; the first is image 4 "):
        from_loader(loader_of(images), CLASSES)


def test_a_wrong_normalisation_is_refused() -> None:
    nan, infinite = (float("nan"), 0.5, 0.5), (1, float("inf"), 1)
    wrong = [((0.5,), (1, 1, 1)), ((0.5,) * 3, (1, 0, 1)), (nan, (1, 1, 1)), ((0.5,) * 3, infinite)]
    for mean, std in wrong:
        with pytest.raises(DataError, match="are not one finite number for each of 3 channels"):
            from_loader(loader_of(), CLASSES, mean, std)


def test_a_class_that_has_no_name_that_can_be_written_is_refused() -> None:
    with pytest.raises(DataError, match="no name that can be written as UTF-8; give it one"):
        from_loader(loader_of(), (*CLASSES[:-1], "caf\udce9"))


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (4, r"classes is 4; give their names in the order of the labels"),
        ("abcd", r"classes is 'abcd'; give their names"),
        ((0, 1), r"classes is \(0, 1\); give their names"),
        ((), r"classes is \(\); give their names"),
        (("cat", "dog", "cat"), r"class 'cat' is given twice; give each class a name of its own"),
    ],
)
def test_classes_are_different_names(classes: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        from_loader(loader_of(), classes)


def test_one_number_normalises_all_channels() -> None:
    one = from_loader(loader_of(), CLASSES, mean=0.5, std=torch.tensor(0.25))
    three = from_loader(loader_of(), CLASSES, mean=(0.5,) * 3, std=(0.25,) * 3)
    assert (one.mean, one.std) == (three.mean, three.std) == ((0.5,) * 3, (0.25,) * 3)
    with pytest.raises(DataError, match="std above 0"):
        from_loader(loader_of(), CLASSES, mean=0.5, std=0)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_images_with_channels_last_are_refused_with_the_remedy(channels: int) -> None:
    images = torch.rand(20, 16, 18, channels)
    with pytest.raises(DataError, match=r"\(8, 16, 18, \d\) float32.*images\.permute\(0, 3, 1, 2\)"):
        from_loader(loader_of(images), CLASSES)
    mended = from_loader(loader_of(images.permute(0, 3, 1, 2)), CLASSES)
    assert mended.images.shape == (20, channels, 16, 18)


def test_narrow_images_of_many_channels_are_accepted_when_mean_states_the_channels() -> None:
    images = torch.rand(20, 16, 40, 3)
    assert len(from_loader(loader_of(images), CLASSES, mean=[0.5] * 16).mean) == 16
    assert from_loader(loader_of(torch.rand(20, 3, 16, 3)), CLASSES).images.shape == (20, 3, 16, 3)


def test_images_that_are_not_square_are_squashed_with_a_warning_or_cropped(
    caplog: pytest.LogCaptureFixture,
) -> None:
    squashed = from_loader(loader_of(), CLASSES, preparation="photos")
    (line,) = caplog.messages
    assert "all 20 images are 8×6 (height × width)" in line
    assert "crop=True keeps the central 6×6 pixels" in line
    assert (squashed.images.shape, squashed.preparation) == (IMAGES.shape, "photos")
    caplog.clear()
    cropped = from_loader(loader_of(), CLASSES, preparation="photos", crop=True)
    assert torch.equal(cropped.images, IMAGES[:, :, 1:7])
    assert cropped.preparation == "photos; the central 6×6 pixels kept"
    square = from_loader(loader_of(IMAGES[:, :, :6]), CLASSES, preparation="photos")
    assert square.preparation == "photos"
    assert not caplog.messages
