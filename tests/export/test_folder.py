"""Folders of exported models: what is loaded is what was written, or an error that says what is wrong."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import hwnas
from hwnas.errors import ChecksumError, HwnasError, StoreError
from hwnas.export.folder import load_model, save_model
from hwnas.export.sums import write_sums
from hwnas.networks.blocks import StaticNetwork, build_network
from hwnas.spaces import get_space
from hwnas.store import file_digest, write_json
from tests.networks.small_spaces import SPACES, lively

ResNet = get_space("resnet50", widths=(0.65,), ratios=(0.2,), depths=(0,), resolutions=(32,), classes=5)
Proxyless = get_space("proxyless", resolutions=(32,), classes=5, width=0.35)  # batch norm adds 1e-3


def network(name: str = "mbconv", seed: int = 0) -> StaticNetwork:
    space = {**SPACES, "resnet50": ResNet, "proxyless": Proxyless}[name]
    model = lively(build_network(space, space.sample(1, seed)[0], rng=seed), seed)
    assert isinstance(model, StaticNetwork)
    return model


@pytest.mark.parametrize("name", ["mbconv", "fused", "resnet50", "proxyless"])
def test_what_is_loaded_computes_the_same(name: str, tmp_path: Path) -> None:
    model = network(name)
    save_model(model, tmp_path / "saved", {"classes": ["a", "b"]})
    folder = Path(shutil.move(tmp_path / "saved", tmp_path / "elsewhere"))  # nothing but the folder
    loaded = load_model(folder)
    images = torch.randn((3, *model.input_shape), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(loaded(images), model(images))
    assert not loaded.training
    assert loaded.operators == model.operators
    assert [op.norm_eps for op in loaded.operators] == [op.norm_eps for op in model.operators]
    assert json.loads((folder / "model.json").read_text())["classes"] == ["a", "b"]
    assert all(parameter.requires_grad for parameter in loaded.parameters())


def test_the_models_of_a_run_need_no_run(tiny_run: Path, tmp_path: Path) -> None:
    pareto = json.loads((tiny_run / "pareto.json").read_text())
    name = pareto["models"][0]["id"]
    folder = shutil.copytree(tiny_run / "models" / name, tmp_path / "shipped")
    model = hwnas.load_model(folder)
    definition = json.loads((folder / "model.json").read_text())
    data = hwnas.load_dataset("cluttered-digits", split="test", seed=0, test=200)
    assert tuple(definition["classes"]) == data.classes
    assert definition["input"]["mean"] == list(data.mean)
    assert definition["input"]["shape"] == list(model.input_shape)
    assert definition["input"]["channel_order"] == "grey"
    images = hwnas.resize(data.images, definition["input"]["shape"][1])
    with torch.no_grad():
        right = (model(images).argmax(1) == data.labels).float().mean()
    assert 100 * float(right) == pytest.approx(pareto["models"][0]["test_accuracy"], abs=0.51)
    subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=folder, check=True)
    listed = {line.split("  ")[1] for line in (folder / "SHA256SUMS").read_text().splitlines()}
    assert listed == {path.name for path in folder.iterdir()} - {"SHA256SUMS"}


def test_sums_of_a_changed_file_do_not_fit(tmp_path: Path) -> None:
    (tmp_path / "a b").write_text("x")
    write_sums(tmp_path)
    write_sums(tmp_path)  # the sums themselves are not among them
    assert subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=tmp_path, check=True, capture_output=True)
    (tmp_path / "a b").write_text("y")
    checked = subprocess.run(
        ["sha256sum", "-c", "SHA256SUMS"], cwd=tmp_path, capture_output=True, check=False
    )
    assert checked.returncode == 1


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model(network(), tmp_path, {})
    return tmp_path


def sealed_with(folder: Path, **changes: Any) -> None:
    """Change fields of model.json and seal it, as somebody who means it would."""
    data = json.loads((folder / "model.json").read_text())
    write_json(folder / "model.json", {**data, **changes})


def with_weights(folder: Path, state: dict[str, torch.Tensor]) -> None:
    (folder / "model.safetensors").write_bytes(safetensors.torch.save(state))
    sealed_with(folder, weights_sha256=file_digest(folder / "model.safetensors"))


def test_missing_files(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no model in \S+ \(no model.json\); give a folder such as runs/"):
        load_model(tmp_path / "nowhere")
    (folder / "model.safetensors").unlink()
    with pytest.raises(StoreError, match=r"cannot read \S+model.safetensors: No such file"):
        load_model(folder)


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "empty"])
def test_damaged_files(folder: Path, name: str, damage: str) -> None:
    data = bytearray((folder / name).read_bytes())
    if damage == "cut":
        data = data[: len(data) // 2]
    elif damage == "flipped":
        data[len(data) * 3 // 4] ^= 1
    else:
        data.clear()
    (folder / name).write_bytes(data)
    with pytest.raises(HwnasError, match=rf"{name}.*(restore|export)"):
        load_model(folder)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shared")
    save_model(network("fused"), folder, {})
    return folder


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_changed_byte_is_refused_or_means_nothing(shared: Path, data: st.DataObject) -> None:
    """What means nothing is white space between the parts of model.json."""
    model = network("fused")
    images = torch.ones((1, *model.input_shape))
    name = data.draw(st.sampled_from(["model.json", "model.safetensors"]))
    whole = (shared / name).read_bytes()
    changed = bytearray(whole)
    changed[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        (shared / name).write_bytes(changed)
        with torch.no_grad():
            assert torch.equal(load_model(shared)(images), model(images))
    except HwnasError:
        assert changed != whole
    finally:
        (shared / name).write_bytes(whole)


def test_weights_of_another_model(folder: Path, tmp_path: Path) -> None:
    save_model(network(seed=1), tmp_path / "other", {})
    shutil.copy(tmp_path / "other" / "model.safetensors", folder)
    with pytest.raises(ChecksumError, match=r"model.safetensors is not what model.json was written for"):
        load_model(folder)
    sealed_with(folder, weights_sha256=file_digest(folder / "model.safetensors"))
    with pytest.raises(StoreError, match=r"does not hold this network's weights: blocks\."):
        load_model(folder)


def test_tensors_that_the_network_has_not_or_of_another_shape_or_type(folder: Path) -> None:
    good = safetensors.torch.load((folder / "model.safetensors").read_bytes())
    name = "blocks.0.conv.conv.weight"
    shape = str(tuple(good[name].shape))
    for change, said in [
        ({name: good[name][:1]}, f"{name} is float32 (1, 3, 3, 3), in the network float32 {shape}"),
        ({name: good[name].double()}, f"{name} is float64 {shape}, in the network float32 {shape}"),
        ({"more": torch.zeros(1)}, "more is float32 (1,), not part of the network"),
    ]:
        with_weights(folder, {**good, **change})
        with pytest.raises(StoreError) as caught:
            load_model(folder)
        assert said in str(caught.value)
    with_weights(folder, {key: tensor for key, tensor in good.items() if key != name})
    with pytest.raises(StoreError, match=rf"{name} is missing, in the network float32"):
        load_model(folder)


def test_definitions_that_are_no_network(folder: Path) -> None:
    operators = json.loads((folder / "model.json").read_text())["operators"]
    huge = "classifier-in:1x1x99999999999-out:7-p:fp32"
    for wrong, said in [
        ([], "do not follow on each other"),
        (operators[1:] + operators[:1], "do not follow on each other"),
        ([{"key": "conv-in:1x1", "norm_eps": 1e-5}], "not the key of an operator"),
        ([{"key": operators[0]["key"], "norm_eps": 0.0}], "norm_eps is 0.0"),
        ([{"key": operators[0]["key"]}], "norm_eps"),
        ([{"key": 3, "norm_eps": 1e-5}], "not the key of an operator: .3."),
        (7, "model.json does not say what the network is made of"),
        ([{"key": huge, "norm_eps": 1e-5}], "does not hold this network's weights"),  # and no memory is taken
    ]:
        sealed_with(folder, operators=wrong)
        with pytest.raises(StoreError, match=said):
            load_model(folder)


def test_another_schema(folder: Path) -> None:
    sealed_with(folder, schema=2)
    with pytest.raises(StoreError, match="has schema 2, this hwnas reads 1"):
        load_model(folder)


def test_a_loaded_model_is_exported_with_an_open_batch(folder: Path, tmp_path: Path) -> None:
    model = load_model(folder)
    path = hwnas.export_onnx(model, tmp_path / "open.onnx", (1, *model.input_shape), dynamic_batch=True)
    from hwnas.export.onnx import onnx_logits

    images = np.random.default_rng(0).standard_normal((5, *model.input_shape), dtype=np.float32)
    with torch.no_grad():
        expected = model(torch.from_numpy(images)).numpy()
    found = onnx_logits(path.read_bytes(), images)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
