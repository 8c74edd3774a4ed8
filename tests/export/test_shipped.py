"""What is shipped, where its runtime and numpy alone are installed: it loads and is as good as stated."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import hwnas
from hwnas import pipeline
from hwnas.errors import MissingExtraError
from hwnas.export.openvino import load_openvino
from hwnas.pipeline import Run, load_run
from hwnas.training.data import resize
from tests.export.test_quantize import run_in_8_bits

# Programs for a Python of nothing but the standard library and the folder that is named first.
START = """
import json, sys
sys.path.append(sys.argv[1])
import numpy as np
"""
ONNX = """
import onnxruntime
session = onnxruntime.InferenceSession(sys.argv[2], providers=["CPUExecutionProvider"])
batch = session.get_inputs()[0].shape[0]
run = lambda images: session.run(["logits"], {"input": images})[0]
"""
OPENVINO = """
import openvino
compiled = openvino.compile_model(sys.argv[2], "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
batch = 1
run = lambda images: compiled(images)[0]
"""
JUDGE = """
images, labels = np.load(sys.argv[3]), np.load(sys.argv[4])
size = batch if isinstance(batch, int) else 64
found = [run(images[i : i + size]).argmax(1) for i in range(0, len(images), size)]
print(json.dumps(100 * float((np.concatenate(found) == labels).mean())))
"""


def installed(folder: Path, *packages: str) -> Path:
    """A folder of site-packages that holds these packages, with their libraries, and nothing else."""
    folder.mkdir()
    for package in packages:
        found = importlib.util.find_spec(package)
        assert found is not None
        assert found.origin is not None
        home = Path(found.origin).parent
        for path in (home, home.with_name(f"{package}.libs")):
            if path.exists():
                (folder / path.name).symlink_to(path)
    return folder


def fresh(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """A program in a Python that knows neither this environment nor its site-packages."""
    command = [sys.executable, "-I", "-S", "-c", program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def accuracy_of(runtime: str, site: Path, model: Path, images: Path) -> float:
    """Percent by a fresh process that knows a runtime and numpy alone."""
    done = fresh(START + runtime + JUDGE, site, model, images / "images.npy", images / "labels.npy")
    assert done.returncode == 0, done.stderr
    return float(json.loads(done.stdout))


def save_test_split(run: Run, size: int, folder: Path) -> Path:
    """The test split as a network of that size takes it."""
    folder.mkdir(exist_ok=True)
    test = run.data("test")
    np.save(folder / "images.npy", resize(test.images, size).numpy())
    np.save(folder / "labels.npy", test.labels.numpy())
    return folder


@pytest.fixture
def copy(tiny_run: Path, tmp_path: Path) -> Path:
    """A copy of the finished tiny run."""
    return Path(shutil.copytree(tiny_run, tmp_path / "copy"))


def test_nothing_else_is_there(tmp_path: Path) -> None:
    site = installed(tmp_path / "site", "numpy", "onnxruntime")
    for module in ("hwnas", "torch", "onnx", "PIL", "scipy"):
        assert importlib.util.find_spec(module) is not None
        done = fresh(f"{START}import {module}", site)
        assert done.returncode == 1
        assert f"No module named '{module}'" in done.stderr


def test_every_onnx_file_is_as_good_as_stated(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In single precision, with any number of images, and in 8 bits."""
    run = run_in_8_bits(copy, "export", monkeypatch, fast=True)
    site = installed(tmp_path / "site", "numpy", "onnxruntime")
    assert {entry["precision"] for entry in run.models} == {"fp32", "int8"}
    for entry in run.models:
        folder = copy / "models" / entry["id"]
        size = run.space.resolution(run.space.architecture(entry["architecture"]))
        images = save_test_split(run, size, tmp_path / "images")
        assert accuracy_of(ONNX, site, folder / "model.onnx", images) == entry["test_accuracy"]
        if entry["precision"] == "fp32":
            path, shape = tmp_path / "any.onnx", (1, 1, size, size)
            hwnas.export_onnx(hwnas.load_model(folder), path, shape, dynamic_batch=True)
            stated = entry["checks"]["torch_test_accuracy"]
            assert abs(accuracy_of(ONNX, site, path, images) - stated) <= 0.5  # one of 200


def test_openvinos_files_are_as_good_as_stated(copy: Path, tmp_path: Path) -> None:
    try:
        load_openvino()
    except MissingExtraError as error:
        pytest.skip(str(error))
    name = load_run(copy).outputs("search")["front"][0]
    job = load_run(copy, {"export.openvino": True})
    pipeline.export_model(job, next(e.architecture for e in job.searched.front))
    entry, folder = pipeline.read_entry(job, name), copy / "models" / name
    images = save_test_split(job, hwnas.load_model(folder).input_shape[1], tmp_path / "images")
    site = installed(tmp_path / "site", "numpy", "openvino")
    stated = entry["checks"]["openvino"]["test_accuracy"]
    assert accuracy_of(OPENVINO, site, folder / "model.xml", images) == stated
