"""Image files as squares of pixels, as datasets and shipped models take them. No torch in here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from hwnas.errors import DataError
from hwnas.files import check_regular


def fitted(file: str | Path, width: int, height: int) -> Image.Image:
    """An image file as RGB of this size; DataError, naming the file, if it cannot be read.

    It is turned as its EXIF orientation says, resized (bilinear) until one side fits, and its centre is kept;
    a JPEG is decoded at a fraction that is no smaller. Grey is repeated, of 16 bits too, and transparent
    pixels lie on white.
    """
    try:
        check_regular(file)
        with Image.open(file) as image:
            image.draft(None, (width, height))
            ImageOps.exif_transpose(image, in_place=True)
            return ImageOps.fit(_rgb(image), (width, height), Image.Resampling.BILINEAR)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"cannot read {file} as an image: {error}; repair or remove it") from None


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
