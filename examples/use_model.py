"""A model that hwnas exported on an image: python use_model.py models/<id>/model.onnx photo.png

It reads the image as `hwnas predict` does, and needs onnxruntime, numpy and pillow only.
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession(sys.argv[1])
about = session.get_modelmeta().custom_metadata_map
classes, mean, std = (json.loads(about[name]) for name in ("classes", "mean", "std"))
_, channels, height, width = session.get_inputs()[0].shape
cut = tuple(json.loads(about.get("image_size", f"[{height}, {width}]")))[::-1]  # (width, height)

with Image.open(sys.argv[2]) as file:
    if about.get("reader", "draft") == "draft":  # older models saw JPEG decoded at a fraction of its size
        file.draft(None, cut)
    image = ImageOps.exif_transpose(file)
if image.mode.startswith("I"):  # grey of 16 bits
    image = Image.fromarray(np.rint(np.asarray(image) / 257).astype(np.uint8))
if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:  # on white
    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
image = ImageOps.fit(image.convert("RGB"), cut, Image.Resampling.BILINEAR)
pixels = np.asarray(image if channels == 3 else image.convert("L"), np.float32).reshape(*cut[::-1], channels)
normalised = np.float32((pixels / 255 - np.float32(mean)) / np.float32(std))
resized = [Image.fromarray(plane).resize((width, height), 2) for plane in normalised.transpose(2, 0, 1)]
images = np.stack([np.asarray(plane) for plane in resized])[None]

logits = session.run(["logits"], {"input": images})[0][0]
probabilities = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
print(f"{classes[probabilities.argmax()]} {100 * probabilities.max():.1f} %")
