"""Datasets, whole in memory, normalised and ready for the network.

    data = load_dataset("cluttered-digits", split="test", seed=0)
    data.images, data.labels, data.classes

`cluttered-digits` is made on the spot from scikit-learn's bundled handwritten digits; `imagefolder` reads a
folder of class folders. A new dataset is one function and one line in `DATASETS`.
"""

from __future__ import annotations

import hashlib
import inspect
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import psutil
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageOps
from sklearn.datasets import load_digits
from torch import Tensor

from hwnas.errors import DataError

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled images of one split.

    `images` are float32 (n, c, h, w), ``(x - mean) / std`` of values x in 0…1, with `mean` and `std` by
    channel; `labels` are int64 (n,), positions in `classes`. `settings` is plain data that says where the
    images come from, `preparation` says in words how they became pixels of this shape.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    settings: Mapping[str, Any]
    preparation: str

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def checksum(self) -> str:
        """SHA-256, in hexadecimal digits, over images and labels."""
        found = hashlib.sha256(str(tuple(self.images.shape)).encode())
        found.update(self.images.contiguous().numpy().tobytes())
        found.update(self.labels.contiguous().numpy().tobytes())
        return found.hexdigest()

    def subset(self, n: int, rng: int | np.random.Generator) -> Dataset:
        """n different images drawn by `rng`, in random order; all of them if there are fewer."""
        chosen = torch.from_numpy(np.random.default_rng(rng).permutation(len(self))[:n])
        settings = {**self.settings, "subset": len(chosen)}
        return replace(self, images=self.images[chosen], labels=self.labels[chosen], settings=settings)

    def batches(self, size: int, resolution: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Images and labels in order, resized to a resolution where one is given.

        As few batches of at most `size` as there can be, as equal as can be: sizes differ by one at most.
        """
        count = -(-len(self) // size)
        ends = [i * len(self) // max(count, 1) for i in range(count + 1)]
        for start, end in itertools.pairwise(ends):
            images = self.images[start:end]
            yield (images if resolution is None else resize(images, resolution)), self.labels[start:end]


def load_dataset(name: str, split: Split = "train", seed: int = 0, **parameters: Any) -> Dataset:
    """A split ("train", "validation" or "test") of the dataset of this name, the same for the same seed.

    `parameters` are those of the dataset's function. DataError for an unknown name, split or parameter,
    and for data that is missing or unusable.
    """
    return read_dataset(name, split, seed, parameters)


def read_dataset(name: str, split: Split, seed: int, parameters: Mapping[str, Any]) -> Dataset:
    """`load_dataset` of parameters in a mapping, where any name may stand: DataError for a wrong one."""
    found = _source(name, split, seed, parameters)
    return Dataset(
        _normalised(found.pixels(), found.mean, found.std),
        torch.from_numpy(found.labels),
        found.classes,
        found.mean,
        found.std,
        {"name": name, "split": split, "seed": seed, **parameters},
        found.preparation,
    )


def describe_dataset(name: str, seed: int, parameters: Mapping[str, Any]) -> tuple[tuple[str, ...], int]:
    """Classes and number of channels of a dataset, without reading or making an image."""
    found = _source(name, "train", seed, parameters)
    return found.classes, len(found.mean)


def resize(images: Tensor, size: int) -> Tensor:
    """Images (n, c, h, w) at (n, c, size, size): bilinear, antialiased where they shrink."""
    if images.shape[-2:] == (size, size):
        return images
    return F.interpolate(images, (size, size), mode="bilinear", antialias=True, align_corners=False)


Pixels = NDArray[np.uint8]  # (n, c, h, w)
Labels = NDArray[np.int64]  # (n,)
Channels = tuple[float, ...]


@dataclass(frozen=True)
class Source:
    """A split before its images are read or made: `pixels`, called once, does that.

    The rest is as in `Dataset`.
    """

    pixels: Callable[[], Pixels]
    labels: Labels
    classes: tuple[str, ...]
    mean: Channels
    std: Channels
    preparation: str


def _source(name: str, split: Split, seed: int, parameters: Mapping[str, Any]) -> Source:
    """What the dataset's function finds; DataError for an unknown name, split or parameter."""
    if name not in DATASETS:
        raise DataError(f"unknown dataset {name!r}; known: {', '.join(DATASETS)}")
    if split not in SPLITS:
        raise DataError(f"unknown split {split!r}; known: {', '.join(SPLITS)}")
    known = dict(list(inspect.signature(DATASETS[name]).parameters.items())[2:])  # after split and seed
    for parameter in parameters:
        if parameter not in known:
            raise DataError(f"{name}: unknown parameter {parameter!r}; known: {', '.join(known)}")
    for parameter, declared in known.items():
        if declared.default is inspect.Parameter.empty and parameter not in parameters:
            raise DataError(f"{name}: parameter {parameter!r} is missing; give it beside the name")
    return DATASETS[name](split, seed, **parameters)


def _check_positive(what: str, value: object, unit: str) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise DataError(f"{what} is {value!r}; give a positive number of {unit}")


def _normalised(images: Pixels, mean: Channels, std: Channels) -> Tensor:
    """float32 (x / 255 - mean) / std by channel."""
    tensor = torch.from_numpy(images).to(torch.float32)
    shift = torch.tensor(mean).reshape(1, -1, 1, 1)
    scale = torch.tensor(std).reshape(1, -1, 1, 1)
    return tensor.div_(255).sub_(shift).div_(scale)


# ---- cluttered digits -----------------------------------------------------------------------------

SCENE = 24  # pixels
SOURCES = {"train": 1150, "validation": 250, "test": 397}  # of the 1797 bundled digits
DIGIT_SCALE = (1.5, 2.2)  # scene pixels a source pixel
DIGIT_TURN = math.radians(20)  # at most, either way
DIGIT_SHIFT = 4.0  # scene pixels at most, each way
DISTRACTORS = 4
PATCH = 7  # scene pixels
NOISE = 0.1  # standard deviation, of values in 0…1
DIGITS_MEAN, DIGITS_STD = 0.22, 0.29


def cluttered_digits(
    split: Split, seed: int, train: int = 40000, validation: int = 2000, test: int = 4000
) -> Source:
    """24×24 scenes of one whole digit among pieces of others; `train`, `validation`, `test` are how many.

    A source digit of scikit-learn's bundled set (8×8) is scaled, turned and shifted at random; four
    patches cut from other scenes' digits and noise are laid over it. The source digits are divided between
    the splits before any scene is made, so that no two splits share one.
    """
    sizes = {"train": train, "validation": validation, "test": test}
    for part, size in sizes.items():
        _check_positive(f"cluttered-digits: {part}", size, "images")
    bundled = load_digits()
    order = np.random.default_rng(seed).permutation(len(bundled.target))
    start = sum(SOURCES[before] for before in SPLITS[: SPLITS.index(split)])
    sources = order[start : start + SOURCES[split]]
    rng = np.random.default_rng([seed, SPLITS.index(split)])
    chosen = rng.choice(sources, sizes[split])

    def pixels() -> Pixels:
        digits = _placed(bundled.images[chosen].astype(np.float32) / 16, rng)
        scenes = _cluttered(digits, rng)
        scenes += rng.normal(0, NOISE, scenes.shape).astype(np.float32)
        return np.asarray(np.rint(scenes.clip(0, 1) * 255)[:, None], dtype=np.uint8)

    return Source(
        pixels,
        bundled.target[chosen].astype(np.int64),
        tuple(str(name) for name in bundled.target_names),
        (DIGITS_MEAN,),
        (DIGITS_STD,),
        f"grey scenes of {SCENE}×{SCENE} pixels",
    )


def _placed(sources: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """(n, s, s) sources at random scale, angle and place in (n, SCENE, SCENE), bilinear."""
    n, s, _ = sources.shape
    scale = rng.uniform(*DIGIT_SCALE, (n, 1, 1)).astype(np.float32)
    angle = rng.uniform(-DIGIT_TURN, DIGIT_TURN, (n, 1, 1)).astype(np.float32)
    shift = rng.uniform(-DIGIT_SHIFT, DIGIT_SHIFT, (2, n, 1, 1)).astype(np.float32)
    axis = np.arange(SCENE, dtype=np.float32) - (SCENE - 1) / 2
    y, x = axis[None, :, None] - shift[0], axis[None, None, :] - shift[1]
    cos, sin = np.cos(angle) / scale, np.sin(angle) / scale
    # Coordinates in the source with one pixel of black around it; what lies outside is clipped onto that.
    last = np.float32(s + 1) - np.float32(1e-3)
    source_y = np.clip(cos * y - sin * x + (s + 1) / 2, 0, last)
    source_x = np.clip(sin * y + cos * x + (s + 1) / 2, 0, last)
    top, left = source_y.astype(np.int64), source_x.astype(np.int64)
    down, right = source_y - top, source_x - left
    flat = np.pad(sources, ((0, 0), (1, 1), (1, 1))).reshape(-1)
    at = np.arange(n)[:, None, None] * (s + 2) ** 2 + top * (s + 2) + left
    upper = flat[at] * (1 - right) + flat[at + 1] * right
    lower = flat[at + s + 2] * (1 - right) + flat[at + s + 3] * right
    return np.asarray(upper * (1 - down) + lower * down, dtype=np.float32)


def _cluttered(digits: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Each scene with patches of other scenes' digits laid over it, the brighter pixel winning."""
    n, scenes, span = len(digits), digits.copy(), np.arange(PATCH)
    every = np.arange(n)
    for _ in range(DISTRACTORS):
        other = (every + rng.integers(1, max(n, 2), n)) % n
        # Cut from the middle, where a digit is, and laid anywhere, partly outside too.
        cut = rng.integers(4, SCENE - PATCH - 3, (2, n, 1))
        lay = rng.integers(0, SCENE - PATCH + 1, (2, n, 1))
        patch = digits[other[:, None, None], (cut[0] + span)[:, :, None], (cut[1] + span)[:, None, :]]
        place = every[:, None, None], (lay[0] + span)[:, :, None], (lay[1] + span)[:, None, :]
        scenes[place] = np.maximum(scenes[place], patch)
    return scenes


# ---- folders of images ----------------------------------------------------------------------------

HELD_OUT = 0.1  # of each class's training images, for a split that has no folder
FOLDERS = {"train": "train", "validation": "val", "test": "test"}
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MEMORY_SHARE = 0.8  # of the free memory that one split may take


def imagefolder(split: Split, seed: int, path: str | Path, size: int) -> Source:
    """Images in ``path/train/<class>/``, ``path/val/<class>/`` and ``path/test/<class>/``, as RGB.

    The shorter side is resized to `size` pixels and the centre is kept; normalised by ImageNet's mean and
    deviation. Grey is repeated, of 16 bits too, and transparent pixels lie on white. Hidden files are passed
    over.

    Where `val` or `test` is missing, about a tenth of each class's training images is held out for it, by
    a hash of the seed, the class and the file's name, so that an image stays in its split when others are
    added. A class so small that no image falls into a split gives it the next one; that one alone may go
    back to `train` as the class grows.

    DataError for a missing folder, a single, empty or too small class, classes that differ between the
    folders, an unreadable image or one whose range is unknown, or more images than fit into memory.
    """
    if not isinstance(path, (str, Path)):
        raise DataError(f"imagefolder: path is {path!r}; give the folder that holds train/")
    _check_positive("imagefolder: size", size, "pixels")
    root = Path(path)
    if not (root / "train").is_dir():
        raise DataError(f"imagefolder: there is no folder {root / 'train'}; it holds one folder a class")
    files = {"train": _class_files(root / "train")}
    classes = tuple(files["train"])
    if len(classes) < 2:
        raise DataError(
            f"imagefolder: {root / 'train'} has {len(classes)} class folders; at least 2 are needed"
        )
    missing = [other for other in SPLITS if not (root / FOLDERS[other]).is_dir()]
    for other in SPLITS[1:]:
        if other in missing:
            continue
        files[other] = _class_files(root / FOLDERS[other])
        if set(files[other]) != set(classes):
            differ = sorted(set(files[other]) ^ set(classes))
            raise DataError(
                f"imagefolder: {root / FOLDERS[other]} and {root / 'train'} have different classes: "
                f"{', '.join(differ)} in one only"
            )
    for other in missing:
        files[other] = {}
    for name in classes:
        found = files["train"][name]
        if len(found) <= len(missing):
            raise DataError(
                f"imagefolder: {root / 'train' / name} has {len(found)} images, too few to hold out "
                f"1 for each of {', '.join(FOLDERS[other] for other in missing)}; add images or folders"
            )
        held = _held_out(found, missing, seed)
        for other in missing:
            files[other][name] = held[other]
        gone = set(itertools.chain(*held.values()))
        files["train"][name] = [file for file in found if file not in gone]
    chosen = [(file, label) for label, name in enumerate(classes) for file in files[split][name]]
    return Source(
        lambda: _read_images([file for file, _ in chosen], size),
        np.array([label for _, label in chosen]),
        classes,
        IMAGENET_MEAN,
        IMAGENET_STD,
        f"RGB (grey repeated, transparent pixels on white), the shorter side resized to {size} pixels "
        f"(bilinear), the centre of {size}×{size} kept",
    )


def _held_out(files: Sequence[Path], missing: Sequence[Split], seed: int) -> dict[Split, list[Path]]:
    """The files of one class that go to each missing split, in order; more than `missing` files.

    Each file has a number in 0…1 that follows from its name alone: those below HELD_OUT are for test, those
    above 1 - HELD_OUT for validation. At least one goes to each, and at least one stays.
    """
    place = {file: _place(file, seed) for file in files}
    most = (len(files) - 1) // max(len(missing), 1)
    held = {}
    for split in missing:
        distance = {file: 1 - at if split == "validation" else at for file, at in place.items()}
        count = sum(at < HELD_OUT for at in distance.values())
        nearest = sorted(files, key=lambda file: (distance[file], file.name))
        held[split] = sorted(nearest[: min(max(count, 1), most)])
    return held


def _place(file: Path, seed: int) -> float:
    """A number in 0…1, uniform over names, from the seed and the names of file and class."""
    found = hashlib.sha256(f"{seed}/{file.parent.name}/{file.name}".encode(errors="surrogateescape")).digest()
    return int.from_bytes(found[:6]) / 2**48


def _class_files(folder: Path) -> dict[str, list[Path]]:
    """The files of each class folder, both sorted by name."""
    found = {}
    for sub in sorted(folder.iterdir()):
        if sub.is_dir() and not sub.name.startswith("."):
            found[sub.name] = sorted(f for f in sub.iterdir() if f.is_file() and not f.name.startswith("."))
            if not found[sub.name]:
                raise DataError(f"imagefolder: {sub} is empty; give it images or remove it")
    return found


def _read_images(files: Sequence[Path], size: int) -> Pixels:
    needed, free = 5 * 3 * size * size * len(files), psutil.virtual_memory().available  # uint8 and float32
    if needed > MEMORY_SHARE * free:
        raise DataError(
            f"imagefolder: {len(files)} images of {size}×{size} take {needed / 2**30:.1f} GiB of memory, "
            f"{free / 2**30:.1f} GiB are free; use a smaller size or fewer images"
        )
    pixels = np.empty((len(files), 3, size, size), dtype=np.uint8)
    for i, file in enumerate(files):
        try:
            with Image.open(file) as image:
                fitted = ImageOps.fit(_rgb(image), (size, size), Image.Resampling.BILINEAR)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise DataError(
                f"imagefolder: cannot read {file} as an image: {error}; repair or remove it"
            ) from None
        pixels[i] = np.asarray(fitted).transpose(2, 0, 1)
    return pixels


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


DATASETS: dict[str, Callable[..., Source]] = {
    "cluttered-digits": cluttered_digits,
    "imagefolder": imagefolder,
}
