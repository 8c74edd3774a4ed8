"""ONNX files against the networks that they came from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from hwnas.errors import ExportError
from hwnas.export.onnx import check_onnx, export_onnx, onnx_logits, with_metadata
from hwnas.networks.blocks import StaticNetwork, build_network
from hwnas.spaces import get_space


def network() -> StaticNetwork:
    stage = {"block": "mbconv", "width": 16, "depth": [1, 2], "kernel": [3, 5], "expand": [2, 3], "se": True}
    space = get_space(
        "mobilenetv3", resolutions=(24,), classes=7, stages=[stage], head={"width": 32, "features": 24}
    )
    return build_network(space, space.sample(1, 3)[0], rng=1)


def test_a_network_of_ours(tmp_path: Path) -> None:
    model = network()
    path = export_onnx(model, tmp_path / "net.onnx", (2, 3, 24, 24), metadata={"classes": "[]"})
    session = onnxruntime.InferenceSession(path)
    assert session.get_inputs()[0].shape == [2, 3, 24, 24]
    assert session.get_modelmeta().custom_metadata_map["classes"] == "[]"
    images = torch.randn(6, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model(images).numpy()
    np.testing.assert_allclose(onnx_logits(path.read_bytes(), images.numpy()), expected, rtol=1e-3, atol=1e-4)
    kinds = {node.op_type for node in onnx.load(path).graph.node}
    assert "BatchNormalization" not in kinds


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")
def test_a_module_of_another_origin(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
    path = export_onnx(model, tmp_path / "other.onnx", (1, 3, 8, 8), metadata={"a": "b"})
    images = torch.randn(2, 3, 8, 8)
    assert check_onnx(path.read_bytes(), model, images) < 1e-4
    assert not list(tmp_path.glob("*.data"))  # weights are inside


def test_an_open_batch_of_a_network_of_ours(tmp_path: Path) -> None:
    model = network()
    path = export_onnx(model, tmp_path / "net.onnx", (1, 3, 24, 24), dynamic_batch=True)
    session = onnxruntime.InferenceSession(path)
    assert session.get_inputs()[0].shape == ["batch", 3, 24, 24]
    assert session.get_outputs()[0].shape == ["batch", 7]
    for images in (1, 5):
        assert check_onnx(path.read_bytes(), model, torch.randn(images, 3, 24, 24)) < 1e-4


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")
def test_an_open_batch_of_a_module_of_another_origin(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))
    path = export_onnx(model, tmp_path / "other.onnx", (1, 3, 8, 8), dynamic_batch=True)
    assert onnxruntime.InferenceSession(path).get_inputs()[0].shape == ["batch", 3, 8, 8]
    assert check_onnx(path.read_bytes(), model, torch.randn(6, 3, 8, 8)) < 1e-4


def test_properties_are_added_or_replaced(tmp_path: Path) -> None:
    path = export_onnx(network(), tmp_path / "net.onnx", (1, 3, 24, 24), metadata={"a": "1", "b": "2"})
    changed = with_metadata(path.read_bytes(), {"b": "3", "c": "4"})
    properties = {prop.key: prop.value for prop in onnx.load_from_string(changed).metadata_props}
    assert {name: properties[name] for name in "abc"} == {"a": "1", "b": "3", "c": "4"}
    assert onnx.load_from_string(changed).graph == onnx.load(path).graph


def test_a_shape_that_the_network_is_not_for(tmp_path: Path) -> None:
    with pytest.raises(
        ExportError, match=r"\(1, 3, 32, 32\) is not what the network is for: \(1, 3, 24, 24\)"
    ):
        export_onnx(network(), tmp_path / "net.onnx", (1, 3, 32, 32))
    assert not list(tmp_path.iterdir())


def test_a_file_that_computes_something_else_is_refused(tmp_path: Path) -> None:
    model = network()
    data = export_onnx(model, tmp_path / "net.onnx", (1, 3, 24, 24)).read_bytes()
    with torch.no_grad():
        next(model.parameters()).add_(0.1)
    with pytest.raises(ExportError, match="differs from torch by"):
        check_onnx(data, model, torch.ones(1, 3, 24, 24))


@pytest.mark.parametrize("images", [1, 4, 6])
def test_images_that_do_not_fill_a_batch(tmp_path: Path, images: int) -> None:
    model = network()
    data = export_onnx(model, tmp_path / "net.onnx", (4, 3, 24, 24)).read_bytes()
    given = torch.randn((images, 3, 24, 24), generator=torch.Generator().manual_seed(0))
    check_onnx(data, model, given)
    assert onnx_logits(data, given.numpy()).shape == (images, 7)
