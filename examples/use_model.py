"""A model that hwnas exported on an image: python use_model.py models/<id>/model.onnx photo.png"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession(sys.argv[1])
about = session.get_modelmeta().custom_metadata_map
classes, mean, std = (json.loads(about[name]) for name in ("classes", "mean", "std"))
_, channels, height, width = session.get_inputs()[0].shape
image = ImageOps.exif_transpose(Image.open(sys.argv[2])).convert("RGB" if channels == 3 else "L")
pixels = np.asarray(ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR), np.float32) / 255
images = ((pixels.reshape(height, width, channels) - mean) / std).transpose(2, 0, 1)[None].astype(np.float32)
logits = session.run(["logits"], {"input": images})[0][0]
probabilities = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
print(f"{classes[probabilities.argmax()]} {100 * probabilities.max():.1f} %")
