"""Networks with two inputs as files: ONNX against torch, and folders that are loaded again."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

import hwnas
from hwnas.errors import ExportError, StoreError
from hwnas.export.card import Origin, model_card
from hwnas.export.folder import load_model, save_model
from hwnas.export.onnx import check_onnx, export_onnx
from hwnas.networks.blocks import StaticNetwork
from hwnas.networks.quantization import quantized
from hwnas.ops.network import random_inputs
from hwnas.store import write_json
from tests.networks.small_spaces import lively
from tests.spaces.two_inputs import CLASSES, VOCABULARY, TwoInputs, token_batch

SPACE = TwoInputs()


def network(seed: int = 0) -> StaticNetwork:
    model = lively(hwnas.build(SPACE, SPACE.sample(1, seed)[0], rng=seed), seed)
    assert isinstance(model, StaticNetwork)
    return model


@pytest.mark.parametrize("dynamic_batch", [False, True])
def test_a_file_has_the_declared_inputs(tmp_path: Path, dynamic_batch: bool) -> None:
    model = network()
    (length,) = model.input_shape
    path = export_onnx(model, tmp_path / "net.onnx", (2, length), dynamic_batch=dynamic_batch)
    session = onnxruntime.InferenceSession(path)
    batch = "batch" if dynamic_batch else 2
    assert [(i.name, i.type, i.shape) for i in session.get_inputs()] == [
        ("ids", "tensor(int64)", [batch, length]),
        ("mask", "tensor(float)", [batch, length]),
    ]
    inputs = token_batch(length, 2)
    (found,) = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
    with torch.no_grad():
        np.testing.assert_allclose(found, model(inputs).numpy(), rtol=1e-4, atol=1e-4)
    assert check_onnx(path.read_bytes(), model, token_batch(length, 5)) < 1e-4  # fills up a batch of 2


def test_shapes_that_do_not_fit(tmp_path: Path) -> None:
    model = network()
    with pytest.raises(ExportError, match=r"\(1, 99\) is not what the network is for"):
        export_onnx(model, tmp_path / "net.onnx", (1, 99))
    with pytest.raises(ExportError, match="the input of a Linear is not known; give input_shape"):
        export_onnx(nn.Linear(2, 2), tmp_path / "net.onnx")


def test_what_is_loaded_computes_the_same(tmp_path: Path) -> None:
    model = network()
    save_model(model, tmp_path, {"classes": ["a"]})
    loaded = load_model(tmp_path)
    assert loaded.network == model.network
    inputs = token_batch(*model.input_shape)
    with torch.no_grad():
        assert torch.equal(loaded(inputs), model(inputs))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"connections": [["ids"]]}, "do not follow on each other"),
        ({"connections": 3}, "does not say what the network is made of"),
        ({"inputs": [{"name": "ids"}]}, "does not say what the network is made of"),
        (
            {"inputs": [{"name": "ids", "shape": [6], "kind": "text"}]},
            "does not say what the network is made of",
        ),
    ],
)
def test_a_changed_definition_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    save_model(network(), tmp_path, {})
    data = json.loads((tmp_path / "model.json").read_text())
    write_json(tmp_path / "model.json", {**data, **changes})
    with pytest.raises(StoreError, match=message):
        load_model(tmp_path)


def test_in_8_bits_it_is_calibrated_on_all_inputs(tmp_path: Path) -> None:
    model = network()
    data = export_onnx(model, tmp_path / "net.onnx").read_bytes()
    session = onnxruntime.InferenceSession(quantized(data, random_inputs(model.network.inputs, 4), "minmax"))
    inputs = token_batch(*model.input_shape, n=1)
    (found,) = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
    with torch.no_grad():
        expected = model(inputs).numpy()
    assert 0 < np.abs(found - expected).max() < 0.2 * np.abs(expected).max()
    assert "connections" not in session.get_modelmeta().custom_metadata_map
    assert json.loads(session.get_modelmeta().custom_metadata_map["input_ranges"]) == {"ids": 50}


def test_the_program_of_a_model_card_feeds_all_inputs(tmp_path: Path) -> None:
    arch = SPACE.sample(1, 0)[0]
    classes = [f"class {n}" for n in range(CLASSES)]
    hwnas.export_onnx(
        hwnas.build(SPACE, arch), tmp_path / "model.onnx", metadata={"classes": json.dumps(classes)}
    )
    entry = {
        "id": "0" * 12,
        "architecture": arch.values,
        "validation_accuracy": 1.0,
        "test_accuracy": 1.0,
        "predicted": {"latency_ms": 1.0},
        "measured": {"latency_ms": None},
        "macs": 1,
        "params": 1,
        "status": "exported",
    }
    images = dict.fromkeys(("train", "validation", "test"), 1)
    origin = Origin("x", ("accuracy",), "None.", "x", images, "", {}, classes)
    card = model_card(entry, origin, inputs=SPACE.inputs(arch), drawing="", device="x")
    length = arch.values["length"]
    assert f"- `ids`: int64 of shape (1, {length}), values from 0 to {VOCABULARY - 1}\n" in card
    assert f"- `mask`: float32 of shape (1, {length})\n" in card
    program = re.findall(r"```python\n(.*?)```", card, re.S)[0]
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() in classes
