"""Light augmentation as tensor operations on a batch."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def augment(images: Tensor, crop_padding: int, flip: bool, rng: np.random.Generator) -> Tensor:
    """Images (n, c, h, w), each shifted at random by up to `crop_padding` pixels, and mirrored half the time.

    What a shift uncovers repeats the border. The shape stays.
    """
    n, _, height, width = images.shape
    if crop_padding:
        p = crop_padding
        down, right = torch.from_numpy(rng.integers(0, 2 * p + 1, (2, n, 1)))
        rows = (down + torch.arange(height))[:, None, :, None]
        columns = (right + torch.arange(width))[:, None, None, :]
        padded = F.pad(images, (p, p, p, p), mode="replicate")
        every, channels = torch.arange(n)[:, None, None, None], torch.arange(images.shape[1])[:, None, None]
        images = padded[every, channels, rows, columns]
    if flip:
        mirrored = torch.from_numpy(rng.random(n) < 0.5)[:, None, None, None]
        images = torch.where(mirrored, images.flip(3), images)
    return images
