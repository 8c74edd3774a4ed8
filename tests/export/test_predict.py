"""Exported models used on image files: the same as in training, without torch."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper
from onnxruntime.transformers.float16 import convert_float_to_float16
from PIL import Image

from hwnas.errors import DataError, EvaluationError, StoreError
from hwnas.export.predict import Predictor
from hwnas.ops.onnx import onnx_model, random_weights
from hwnas.pipeline import load_run
from hwnas.spaces import Operator
from hwnas.training.data import resize
from hwnas.training.data.folders import Photos
from tests.conftest import Command

CLASSES = ("cat", "dog", "owl")
ABOUT = {"classes": json.dumps(CLASSES), "mean": "[0.4, 0.5, 0.6]", "std": "[0.2, 0.3, 0.4]"}


def write_model(
    path: Path, metadata: Mapping[str, str], batch: int | None = 1, channels: int = 3, size: int = 12
) -> Path:
    head = Operator("head", (channels, size, size), (3,), (("mid", 8), ("feat", 0), ("act", "relu")))
    proto = onnx_model([head], [random_weights(head, 0)], batch, metadata)
    path.write_bytes(proto.SerializeToString())
    return path


def photo(path: Path, mode: str = "RGB", size: tuple[int, int] = (40, 30)) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3)).astype(np.uint8)
    Image.fromarray(pixels).resize(size).convert(mode).save(path)
    return path


@pytest.mark.parametrize("image_size", [(16, 16), (8, 8), (12, 12), None])
def test_images_are_prepared_as_in_training(tmp_path: Path, image_size: tuple[int, int] | None) -> None:
    about = ABOUT if image_size is None else {**ABOUT, "image_size": json.dumps(image_size)}
    predictor = Predictor(write_model(tmp_path / "model.onnx", about))
    photo(tmp_path / "photo.png")
    side = (image_size or (12, 12))[0]
    stored = Photos(tmp_path, [b"photo.png"], side)[0][None].float() / 255
    mean, std = (torch.tensor(json.loads(ABOUT[name])).reshape(1, 3, 1, 1) for name in ("mean", "std"))
    expected = resize((stored - mean) / std, 12)[0].numpy()
    np.testing.assert_allclose(predictor.preparation(tmp_path / "photo.png"), expected, atol=2e-6)


@pytest.mark.parametrize("batch", [1, None, 4])
def test_probabilities_are_those_of_the_network(tmp_path: Path, batch: int | None) -> None:
    path, image = write_model(tmp_path / "model.onnx", ABOUT, batch), photo(tmp_path / "photo.png")
    predictor = Predictor(tmp_path)  # the folder does too
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    prepared = np.repeat(predictor.preparation(image)[None], batch or 1, axis=0)
    logits = torch.from_numpy(session.run(None, {"input": prepared})[0][0]).double()
    probabilities = predictor(image)
    np.testing.assert_allclose(probabilities, torch.softmax(logits, 0), atol=1e-6)
    top = predictor.top(image, 2)
    assert [row["class"] for row in top] == [CLASSES[i] for i in np.argsort(-probabilities)[:2]]
    assert top[0]["probability"] == pytest.approx(probabilities.max())
    assert len(predictor.top(image, 9)) == 3


def converted(model: Path, **options: Any) -> Path:
    """The model in float16, beside the original."""
    path = model.with_name("fp16.onnx")
    onnx.save(convert_float_to_float16(onnx.load(model), **options), path)
    return path


@pytest.mark.parametrize("keep_io_types", [False, True])
def test_a_model_converted_to_fp16(tmp_path: Path, keep_io_types: bool) -> None:
    model, image = write_model(tmp_path / "model.onnx", ABOUT), photo(tmp_path / "photo.png")
    half = Predictor(converted(model, keep_io_types=keep_io_types))
    np.testing.assert_allclose(half(image), Predictor(model)(image), atol=2e-3)


def test_values_beyond_those_of_float16_are_no_prediction(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model.onnx", {**ABOUT, "std": "[1e-6, 1e-6, 1e-6]"})
    image = photo(tmp_path / "photo.png")
    assert Predictor(model)(image).sum() == pytest.approx(1)
    with pytest.raises(EvaluationError, match=r"photo\.png are NaN or infinite, .*use the model in float32"):
        Predictor(converted(model))(image)


def test_an_input_that_is_not_of_floats_is_refused(tmp_path: Path) -> None:
    model = onnx.load(write_model(tmp_path / "model.onnx", ABOUT))
    model.graph.node.insert(0, helper.make_node("Cast", ["pixels"], ["input"], to=onnx.TensorProto.FLOAT))
    model.graph.input[0].name = "pixels"
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.UINT8
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(StoreError, match=r"takes an input of tensor\(uint8\); .* float16, float32, float64"):
        Predictor(tmp_path)


def test_a_model_that_fails_when_it_runs(tmp_path: Path) -> None:
    model = onnx.load(write_model(tmp_path / "model.onnx", ABOUT))
    last = model.graph.node[-1].output[0]
    model.graph.node[-1].output[0] = "flat"
    model.graph.node.add().CopyFrom(helper.make_node("Reshape", ["flat", "rows"], [last], name="to_rows"))
    model.graph.initializer.add().CopyFrom(numpy_helper.from_array(np.array([2, 5]), "rows"))
    model.graph.output[0].type.tensor_type.ClearField("shape")
    onnx.save(model, tmp_path / "model.onnx")
    predictor = Predictor(tmp_path)
    with pytest.raises(StoreError, match=r"model\.onnx loads, but fails when it runs: .*to_rows.*export it"):
        predictor(photo(tmp_path / "photo.png"))


def test_grey_images(tmp_path: Path) -> None:
    about = {**ABOUT, "mean": "[0.5]", "std": "[0.5]", "channel_order": "grey"}
    predictor = Predictor(write_model(tmp_path / "model.onnx", about, channels=1))
    white = tmp_path / "white.png"
    Image.new("L", (30, 20), 255).save(white)
    np.testing.assert_allclose(predictor.preparation(white), np.ones((1, 12, 12)), atol=1e-6)
    assert predictor.preparation(photo(tmp_path / "photo.png")).shape == (1, 12, 12)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"classes": ""}, StoreError, "does not say its classes: hwnas predict needs a model that"),
        ({"mean": "[0.5]"}, StoreError, r"takes an input of shape \(3, 12, 12\), not"),
        (
            {"channel_order": "as given"},
            DataError,
            "takes 3 channels, as given: only the program that trained",
        ),
    ],
)
def test_files_that_do_not_say_enough(
    tmp_path: Path, change: dict[str, str], error: type[Exception], message: str
) -> None:
    path = write_model(tmp_path / "model.onnx", {**ABOUT, **change})
    with pytest.raises(error, match=message):
        Predictor(path)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_outputs_that_are_not_finite_are_no_prediction(
    tmp_path: Path, value: float, hwnas_command: Command
) -> None:
    path, image = write_model(tmp_path / "model.onnx", ABOUT), photo(tmp_path / "photo.png")
    model = onnx.load(path)
    bias = next(t for t in model.graph.initializer if t.dims == [len(CLASSES)])
    bias.CopyFrom(onnx.numpy_helper.from_array(np.array([0, value, 0], np.float32), bias.name))
    onnx.save(model, path)
    with pytest.raises(
        EvaluationError, match=r"the outputs of \S+model\.onnx for \S+photo\.png are NaN or infinite"
    ):
        Predictor(path)(image)
    code, out, err = hwnas_command("predict", path, image)
    assert (code, out) == (1, "")
    assert err.startswith(f"error: the outputs of {path} for")


def test_what_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"there is no model \S+/model\.onnx; give a folder under models/"):
        Predictor(tmp_path)
    (tmp_path / "model.onnx").write_text("nothing")
    with pytest.raises(StoreError, match="is not a model that ONNX Runtime can load"):
        Predictor(tmp_path)


def test_an_exported_model_predicts_what_the_run_says_it_does(tiny_run: Path, tmp_path: Path) -> None:
    """Test images as files: as many right as the entry says."""
    run = load_run(tiny_run)
    model, test = run.models[-1], run.data("test")
    predictor = Predictor(tiny_run / "models" / model["id"])
    right = 0
    for number in range(60):
        pixels = (test.images[number, 0] * test.std[0] + test.mean[0]) * 255
        file = tmp_path / f"{number}.png"
        Image.fromarray(pixels.round().byte().numpy()).save(file)
        right += predictor.top(file, 1)[0]["class"] == test.classes[int(test.labels[number])]
    session = onnxruntime.InferenceSession(str(tiny_run / "models" / model["id"] / "model.onnx"))
    size = session.get_inputs()[0].shape[2]
    logits = [
        session.run(None, {"input": resize(test.images[i : i + 1], size).numpy()})[0] for i in range(60)
    ]
    assert right == sum(
        int(row.argmax()) == int(label) for row, label in zip(logits, test.labels, strict=False)
    )


def run_blocked(blocked: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A Python program in which importing some modules fails."""
    code = (
        "import runpy, sys\n"
        f"sys.modules.update(dict.fromkeys({blocked!r}.split()))\n"
        f"sys.argv = {list(arguments)!r}\n"
        + (
            "runpy.run_path(sys.argv[0], run_name='__main__')"
            if arguments[0].endswith(".py")
            else "from hwnas.cli import main; main()"
        )
    )
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=cwd, env=os.environ, capture_output=True, text=True, check=False)


def test_the_command_needs_no_torch(tmp_path: Path) -> None:
    write_model(tmp_path / "model.onnx", ABOUT)
    photo(tmp_path / "a photo.png")
    (tmp_path / "broken.png").write_text("no image")
    arguments = ["hwnas", "predict", "model.onnx", "a photo.png", "broken.png", "--top", "2", "--json"]
    result = run_blocked("torch", *arguments, cwd=tmp_path)
    assert result.returncode == 1, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    (row,) = found["predictions"]
    assert row["image"] == "a photo.png"
    assert len(row["top"]) == 2
    assert "error: cannot read broken.png as an image" in result.stderr
    assert "Traceback" not in result.stderr
    result = run_blocked("torch", "hwnas", "predict", "model.onnx", "a photo.png", cwd=tmp_path)
    assert result.returncode == 0
    assert result.stdout.startswith("a photo.png: ")
    assert result.stdout.count("%") == 3


EXAMPLE = Path(__file__).parents[2] / "examples" / "use_model.py"


def test_the_example_needs_neither_torch_nor_hwnas(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model.onnx", {**ABOUT, "image_size": "[16, 16]", "reader": "full"})
    image = photo(tmp_path / "photo.png")
    result = run_blocked("torch hwnas", str(EXAMPLE), str(model), str(image), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    name, percent = result.stdout.split()[:2]
    (best,) = Predictor(model).top(image, 1)
    assert name == best["class"]
    assert float(percent) == pytest.approx(100 * best["probability"], abs=0.06)
    code = [line for line in EXAMPLE.read_text().splitlines() if line and not line.startswith(("#", '"'))]
    assert len(code) <= 30
    assert onnx.load(model).metadata_props


def pictures(folder: Path) -> dict[str, Path]:
    """One picture in forms that are easily read in two ways."""
    rng = np.random.default_rng(1)
    colours = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize((96, 72))
    turned, flipped = Image.Exif(), Image.Exif()
    turned[0x0112], flipped[0x0112] = 6, 5
    grey = Image.fromarray(np.asarray(colours.convert("L")).astype(np.uint16) * 257)
    clear = colours.copy()
    clear.putalpha(colours.convert("L"))
    forms: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "large.jpg": (colours, {"quality": 95}),
        "turned.jpg": (colours, {"exif": turned}),
        "flipped.png": (colours, {"exif": flipped}),
        "cmyk.jpg": (colours.convert("CMYK"), {}),
        "cmyk-turned.jpg": (colours.convert("CMYK"), {"exif": turned}),
        "grey.jpg": (colours.convert("L"), {}),
        "grey-16.png": (grey, {}),
        "grey-16.tif": (grey, {}),
        "clear.png": (clear, {}),
        "grey-clear.png": (clear.convert("LA"), {}),
        "palette.gif": (colours.convert("P"), {"transparency": 7}),
        "palette.png": (colours.quantize(16), {"transparency": bytes(range(0, 256, 16))}),
    }
    for name, (image, how) in forms.items():
        image.save(folder / name, **how)
    return {name: folder / name for name in forms}


@pytest.mark.parametrize("reader", ["full", None])
@pytest.mark.parametrize("channels", [3, 1])
def test_training_predict_and_the_example_read_every_picture_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reader: str | None, channels: int
) -> None:
    """A model that records no reader is one of an older hwnas, whose reader they use."""
    about = {**ABOUT, "image_size": "[16, 16]"}
    if reader is not None:
        about["reader"] = reader
    if channels == 1:
        about |= {"mean": "[0.4]", "std": "[0.2]", "channel_order": "grey"}
    model = write_model(tmp_path / "model.onnx", about, channels=channels)
    predictor = Predictor(model)
    mean, std = (torch.tensor(json.loads(about[name])).reshape(1, -1, 1, 1) for name in ("mean", "std"))
    for name, path in pictures(tmp_path).items():
        prepared = predictor.preparation(path)
        monkeypatch.setattr(sys, "argv", [str(EXAMPLE), str(model), str(path)])
        by_example = runpy.run_path(str(EXAMPLE))["images"][0]
        np.testing.assert_array_equal(by_example, prepared, name)
        if channels == 3:
            photo = Photos(tmp_path, [name.encode()], 16, reader or "draft")[0][None].float() / 255
            trained = resize((photo - mean) / std, 12)[0].numpy()
            np.testing.assert_allclose(prepared, trained, atol=2e-6, err_msg=name)


def test_a_jpeg_and_a_png_of_the_same_pixels_get_the_same_probabilities(tmp_path: Path) -> None:
    path = photo(tmp_path / "photo.jpg", size=(200, 150))
    with Image.open(path) as image:
        image.save(tmp_path / "photo.png")
    new = Predictor(write_model(tmp_path / "new.onnx", {**ABOUT, "reader": "full"}))
    old = Predictor(write_model(tmp_path / "old.onnx", ABOUT))
    assert np.array_equal(new(path), new(tmp_path / "photo.png"))
    assert not np.array_equal(old(path), old(tmp_path / "photo.png"))


def test_a_model_of_an_unknown_reader_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        StoreError, match="read by 'linear', this hwnas knows full, draft; use the hwnas that"
    ):
        Predictor(write_model(tmp_path / "model.onnx", {**ABOUT, "reader": "linear"}))
