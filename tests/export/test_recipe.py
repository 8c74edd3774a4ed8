"""Exported models are fed by what their own card and metadata say, and are as good as stated."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from hwnas import pipeline
from hwnas.export.card import Origin, model_card
from hwnas.export.metadata import input_facts, properties
from hwnas.export.onnx import onnx_logits, onnx_top1
from hwnas.networks.blocks import build_network, folded_weights
from hwnas.ops.onnx import onnx_model
from hwnas.pipeline import load_run
from hwnas.spaces import get_space
from hwnas.training.data import Dataset, from_loader, load_dataset
from tests.networks.small_spaces import lively
from tests.training.data.test_cifar10 import drawn, write_binary

Values = NDArray[np.float32]  # (n, c, h, w)
Recipe = Callable[[NDArray[Any]], Values]  # a function from prepared images to inputs

SIZE = 12  # height and width of the networks' input, in pixels
PIXELS = 16  # height and width of the prepared images
CLASSES = ("cat", "dog", "owl")
LABELS = torch.arange(40) % len(CLASSES)


def resized(images: Values, size: int) -> Values:
    """Images resized by Pillow in floating point."""

    def channel(values: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(Image.fromarray(values).resize((size, size), Image.Resampling.BILINEAR))

    return np.stack([np.stack([channel(values) for values in image]) for image in images.astype(np.float32)])


def normalized(images: Values, mean: list[float], std: list[float]) -> Values:
    shift, scale = (np.float32(values).reshape(-1, 1, 1) for values in (mean, std))
    return (images - shift) / scale


def recipe_of_card(card: str) -> Recipe:
    """The steps of a card as a function; a step that is not known fails."""
    steps = re.findall(r"^\d\. (.*)$", card.split("## Input")[1].split("Output:")[0], re.M)
    assert steps[0].startswith("Prepare: ")
    kind = "float32" if steps[0].endswith("float32.") else "uint8"

    def step(text: str, images: Values) -> Values:
        if text == "Divide by 255.":
            return images / np.float32(255)
        if found := re.fullmatch(
            r"Subtract the mean of each channel, (\[.*\]), and divide by its standard deviation, (\[.*\])\.",
            text,
        ):
            return normalized(images, *map(json.loads, found.groups()))
        if found := re.fullmatch(r"Resize to (\d+)×\1 pixels \(bilinear, antialiased\), in floating.*", text):
            return resized(images, int(found[1]))
        assert text.startswith("Use these values as they are; do not scale or normalise them. ")
        return images

    def recipe(images: NDArray[Any]) -> Values:
        assert images.dtype == kind
        values = images.astype(np.float32)
        for text in steps[1:]:
            values = step(text, values)
        return values

    return recipe


def recipe_of_metadata(metadata: Mapping[str, str]) -> Recipe:
    mean, std, (size, _) = (json.loads(metadata[name]) for name in ("mean", "std", "size"))

    def recipe(images: NDArray[Any]) -> Values:
        if metadata["normalization"] == "none":
            return resized(images, size)
        assert metadata["normalization"] == "(value / 255 - mean) / std"
        return resized(normalized(images.astype(np.float32) / np.float32(255), mean, std), size)

    return recipe


@dataclass(frozen=True)
class Exported:
    """An exported model: its file, its card, and the test split that its accuracy is of."""

    data: bytes
    card: str
    test: Dataset


def exported(test: Dataset) -> Exported:
    """A network of random weights. Four labels of five are what it says, so that its accuracy is 80 %."""
    space = get_space(
        "mobilenetv3",
        resolutions=(SIZE,),
        channels=len(test.mean),
        classes=len(test.classes),
        stem={"width": 8, "activation": "relu"},
        stages=[{"block": "fused", "width": 12, "depth": [1, 2], "kernel": 3, "expand": 2, "stride": 2}],
        head={"width": 16, "activation": "relu"},
    )
    network = build_network(space, space.sample(1, 0)[0], rng=0)
    lively(network)
    model = onnx_model(network.operators, folded_weights(network))
    (batch,) = test.batches(len(test), SIZE)
    answers = onnx_logits(model.SerializeToString(), batch[0].numpy()).argmax(1)
    wrong = (answers + 1) % len(test.classes)
    labels = np.where(np.arange(len(test)) % 5 == 0, wrong, answers)
    test = replace(test, labels=torch.from_numpy(labels))
    accuracy = onnx_top1(model.SerializeToString(), test.batches(32, SIZE)).accuracy
    assert accuracy == 80.0
    facts = input_facts(test, network.input_shape)
    entry = {
        "id": "0" * 12,
        "architecture": {},
        "precision": "fp32",
        "validation_accuracy": accuracy,
        "test_accuracy": accuracy,
        "predicted": {"latency_ms": 1.0},
        "measured": {"latency_ms": None},
        "macs": 1,
        "params": 1,
        "status": "exported",
    }
    origin = Origin(
        experiment="x",
        objectives=("accuracy",),
        training="None.",
        dataset="x",
        images=dict.fromkeys(("train", "validation", "test"), len(test)),
        preparation=test.preparation,
        inputs=facts,
        classes=test.classes,
    )
    runtime = {"name": "onnxruntime", "version": "1", "threads": 1}
    metadata = properties(entry, facts, test.classes, {"cpu": "x"}, runtime)
    data = onnx_model(network.operators, folded_weights(network), 1, metadata).SerializeToString()
    card = model_card(entry, origin, inputs=network.network.inputs, drawing="", device="x")
    return Exported(data, card, test)


def check(model: Exported, images: NDArray[Any]) -> None:
    """Feed a model as its card and as its metadata say; `images` (n, c, h, w) are prepared."""
    metadata = onnxruntime.InferenceSession(model.data).get_modelmeta().custom_metadata_map
    stated = re.search(r"\| Test accuracy \| ([\d.]+) %", model.card)
    assert stated is not None
    assert 100 * float(metadata["test_accuracy"]) == pytest.approx(100 * float(stated[1]), abs=0.5)
    labels = model.test.labels.numpy()
    for recipe in (recipe_of_card(model.card), recipe_of_metadata(metadata)):
        answers = onnx_logits(model.data, recipe(images)).argmax(1)
        assert 100 * float((answers == labels).mean()) == pytest.approx(float(stated[1]), abs=0.005)


def some_bytes(channels: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (40, channels, PIXELS, PIXELS), dtype=torch.uint8, generator=generator)


def loaded(images: Tensor, **declared: Any) -> Dataset:
    return from_loader([(images, LABELS)], CLASSES, split="test", **declared)


def imagefolder(folder: Path) -> tuple[Dataset, NDArray[Any]]:
    """Photos of the prepared size, in the order of the dataset."""
    images = some_bytes(3).numpy()
    for split in ("train", "val", "test"):
        for number, pixels in enumerate(images):
            path = folder / split / CLASSES[number // 14] / f"{number:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.transpose(1, 2, 0)).save(path)
    return load_dataset("imagefolder", "test", path=folder, size=PIXELS), images


def digits(folder: Path) -> tuple[Dataset, NDArray[Any]]:
    data = load_dataset("cluttered-digits", "test", train=40, validation=40, test=40)
    return data, (data.images * data.std[0] + data.mean[0]).mul(255).round().byte().numpy()


def cifar10(folder: Path) -> tuple[Dataset, NDArray[Any]]:
    test = drawn(40, 1)
    write_binary(folder, drawn(60, 0), test)
    return load_dataset("cifar10", "test", path=folder, validation=10), test[0]


def bytes_of_a_loader(folder: Path) -> tuple[Dataset, NDArray[Any]]:
    images = some_bytes(3)
    return loaded(images, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.1)), images.numpy()


def grey_bytes_of_a_loader(folder: Path) -> tuple[Dataset, NDArray[Any]]:
    return loaded(some_bytes(1)), some_bytes(1).numpy()


def floats_of_a_loader(folder: Path) -> tuple[Dataset, NDArray[Any]]:
    """Normalised by the loader, which declares it."""
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.1)
    images = (some_bytes(3) / 255 - torch.tensor(mean).reshape(3, 1, 1)) / torch.tensor(std).reshape(3, 1, 1)
    return loaded(images, mean=mean, std=std), images.numpy()


def floats_of_unknown_origin(folder: Path) -> tuple[Dataset, NDArray[Any]]:
    """Grey, without a declaration, far from 0 to 1."""
    images = some_bytes(1).float() * 3 - 100
    return loaded(images), images.numpy()


KINDS = [
    imagefolder,
    digits,
    cifar10,
    bytes_of_a_loader,
    grey_bytes_of_a_loader,
    floats_of_a_loader,
    floats_of_unknown_origin,
]


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_fed_as_its_card_and_its_metadata_say_is_as_good_as_stated(
    kind: Callable[[Path], tuple[Dataset, NDArray[Any]]], tmp_path: Path
) -> None:
    data, images = kind(tmp_path)
    check(exported(data), images)


def test_a_card_claims_no_normalisation_of_floats() -> None:
    data, _ = floats_of_a_loader(Path())
    card = exported(data).card
    assert "255" not in card
    assert (
        "The DataLoader was declared to give (x - mean) / std with mean [0.5, 0.4, 0.3] and std [0.2, 0.3, "
        "0.1] of each channel; x is 0 to 1 in the test images." in card
    )
    data, _ = floats_of_unknown_origin(Path())
    card = exported(data).card
    assert "255" not in card
    assert "do not scale or normalise them. They are -100 to 665 in the test images." in card


@pytest.mark.parametrize("declares", [True, False, None])
def test_a_model_of_a_run_is_as_good_as_stated(declares: bool | None, tiny_run: Path, tmp_path: Path) -> None:
    """The digits by name (None), or as floats of a loader that does or does not declare its normalisation."""
    folder = tiny_run
    job = load_run(folder)
    arch = next(iter(job.searched.front)).architecture
    if declares is not None:
        folder = Path(shutil.copytree(tiny_run, tmp_path / "copy"))
        job = load_run(folder)
        given = {}
        for split in ("train", "validation", "test"):
            data = job.data(split)
            normalisation = {"mean": data.mean, "std": data.std} if declares else {}
            given[split] = from_loader(list(data.batches(100)), data.classes, split=split, **normalisation)
        assert job.predicted_accuracy  # cached: the search knows the data by name only
        job._data = given
        pipeline.export_model(job, arch)
    test = job.data("test")
    images = test.images.numpy()
    if declares is None:
        images = (test.images * test.std[0] + test.mean[0]).mul(255).round().byte().numpy()
    model = folder / "models" / arch.id
    card = (model / "README.md").read_text()
    check(Exported((model / "model.onnx").read_bytes(), card, test), images)
