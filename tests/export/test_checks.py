"""What counts as the same: outputs, accuracy, and batches of a size that a file demands."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from hwnas.errors import EvaluationError, ExportError
from hwnas.export.checks import accuracy_by, check_accuracy, check_outputs, in_batches


@given(images=st.integers(1, 20), size=st.one_of(st.none(), st.integers(1, 7)))
def test_each_image_is_computed_once_whatever_the_batch(images: int, size: int | None) -> None:
    sizes = []

    def run(batch: np.ndarray) -> np.ndarray:
        sizes.append(len(batch))
        return 2 * batch.reshape(len(batch), -1)

    given_images = np.arange(images * 3, dtype=np.float32).reshape(images, 3, 1, 1)
    assert np.array_equal(in_batches(run, size, given_images), 2 * given_images.reshape(images, 3))
    assert set(sizes) == {size or images}


@pytest.mark.parametrize("bad", [1.001, float("nan")])
def test_outputs_that_differ_are_refused(bad: float) -> None:
    model, images = nn.Flatten(), torch.rand(2, 3, 4, 4) + 1
    assert check_outputs(lambda x: x.reshape(2, -1), model, images, "a runtime") == 0
    with pytest.raises(ExportError, match="a runtime differs from torch by"):
        check_outputs(lambda x: bad * x.reshape(2, -1), model, images, "a runtime")


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_a_network_whose_own_outputs_are_not_finite_is_not_checked(bad: float) -> None:
    images = torch.rand(3, 3, 4, 4)
    images[1, 0, 0, 0] = bad
    with pytest.raises(EvaluationError, match="by torch: the outputs for 1 of 3 images are NaN or infinite"):
        check_outputs(lambda x: x.reshape(3, -1), nn.Flatten(), images, "a runtime")


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_outputs_that_are_not_finite_are_no_answers(bad: float) -> None:
    images = torch.zeros(4, 3)
    images[2, 0] = bad
    with pytest.raises(EvaluationError, match=r"outputs for 1 of 4 images .* first for image 2"):
        accuracy_by(lambda x: x, [(images[:2], torch.zeros(2)), (images[2:], torch.zeros(2))])


def test_accuracy_is_counted_over_all_batches() -> None:
    batches = [(torch.eye(3), torch.tensor([0, 1, 0])), (torch.eye(3)[:1], torch.tensor([0]))]
    assert accuracy_by(lambda images: images, batches) == 75.0


@pytest.mark.parametrize(
    ("accuracy", "images", "fine"),
    [
        (90.0, 10_000, True),
        (89.91, 10_000, True),
        (89.89, 10_000, False),
        (89.5, 200, True),
        (89.0, 200, False),
    ],
)
def test_accuracy_may_differ_by_a_tenth_of_a_point_or_one_image(
    accuracy: float, images: int, fine: bool
) -> None:
    if fine:
        check_accuracy(accuracy, 90.0, images, "a runtime")
    else:
        with pytest.raises(ExportError, match=r"is 89\.\d+ % by a runtime and 90\.00 % by torch; they may"):
            check_accuracy(accuracy, 90.0, images, "a runtime")
