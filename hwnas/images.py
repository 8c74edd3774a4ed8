"""Image files as squares of pixels, as datasets and exported models take them. This module needs no torch.

A *reader* names how the pixels of a file become those of the square. It is recorded with runs and exported
models, because a network must see an image as its training did:

    full    JPEG files are decoded at full size
    draft   JPEG files are decoded at 1/2, 1/4 or 1/8 of their size where that is no smaller than the square;
            the reader of runs and models that record none
"""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from hwnas.errors import DamagedImagesError, DataError
from hwnas.files import check_regular
from hwnas.text import one_line

READER = "full"
OLD_READER = "draft"
READERS = (READER, OLD_READER)


def fitted(file: str | Path, width: int, height: int, reader: str = READER) -> Image.Image:
    """Read an image file as RGB of a given size.

    The image is turned as its EXIF orientation says, and its central part of the aspect ratio `width` to
    `height` is resized (bilinear, antialiased). Grey is repeated, also of 16 bits; transparent pixels lie on
    white.

    Args:
        file: The image file, of any format that Pillow knows.
        width: Pixels of the result.
        height: Pixels of the result.
        reader: One of `READERS`.

    Returns:
        The image, of 8 bits a channel.

    Raises:
        DamagedImagesError: if the content of the file is no image that can be decoded.
        DataError: if the file cannot be opened.
    """
    try:
        check_regular(file)
        with Image.open(file) as image:
            if reader == OLD_READER:
                image.draft(None, (width, height))
            ImageOps.exif_transpose(image, in_place=True)
            return ImageOps.fit(_rgb(image), (width, height), Image.Resampling.BILINEAR)
    except MemoryError:
        raise
    except Exception as error:  # Pillow's plugins raise errors of any type for damaged files
        reason = "no known image format" if isinstance(error, UnidentifiedImageError) else one_line(error)
        message = f"cannot read {file} as an image: {reason}; repair or remove it"
        if isinstance(error, OSError) and error.errno not in (None, errno.EIO):
            raise DataError(message) from None
        raise DamagedImagesError(message, {str(file): reason}) from None


def _rgb(image: Image.Image) -> Image.Image:
    """As RGB of 8 bits: 16 bits scaled down, transparent pixels on white. ValueError for an unknown range."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):  # PNG has 16 at most
        grey = np.rint(np.asarray(image).astype(np.float64) / 257).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError(f"mode {image.mode} does not say what white is; convert it to 8 or 16 bits")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")
