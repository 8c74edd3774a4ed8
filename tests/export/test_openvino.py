"""Models in OpenVINO's format, where OpenVINO is installed, and the one line that is said where it is not."""

from __future__ import annotations

import builtins
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import hwnas
from hwnas.errors import ExportError, MissingExtraError
from hwnas.export.checks import check_outputs
from hwnas.export.openvino import export_openvino, load_openvino, openvino_logits
from hwnas.networks.blocks import StaticNetwork, build_network, folded_weights
from hwnas.ops.onnx import onnx_model
from hwnas.pipeline import load_run
from tests.networks.small_spaces import SPACES, lively


@pytest.fixture
def openvino() -> Any:
    try:
        return load_openvino()
    except MissingExtraError as error:
        pytest.skip(str(error))


@pytest.fixture
def copy(tiny_run: Path, tmp_path: Path) -> Path:
    """A copy of the finished tiny run."""
    return Path(shutil.copytree(tiny_run, tmp_path / "copy"))


def exported(name: str, batch: int | None) -> tuple[StaticNetwork, bytes]:
    space = SPACES[name]
    network = lively(build_network(space, space.sample(1, 0)[0], rng=0))
    assert isinstance(network, StaticNetwork)
    model = onnx_model(network.operators, folded_weights(network), batch, {"classes": "cats and dogs"})
    return network, model.SerializeToString()


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("batch", [1, 3, None])
def test_it_computes_what_torch_computes(openvino: Any, name: str, batch: int | None, tmp_path: Path) -> None:
    network, data = exported(name, batch)
    export_openvino(data, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.bin", "model.xml"]
    images = torch.randn((7, *network.input_shape), generator=torch.Generator().manual_seed(0))
    logits = openvino_logits(tmp_path)
    assert 0 < check_outputs(logits, network, images, "OpenVINO") < 1e-4
    first = logits(images.numpy()[:1])
    kept = first.copy()
    logits(images.numpy()[1:])
    assert np.array_equal(first, kept)  # not a view of what the next call writes
    loaded = openvino.Core().read_model(tmp_path / "model.xml")
    assert loaded.get_rt_info(["hwnas", "classes"]).astype(str) == "cats and dogs"
    with torch.no_grad():
        next(network.parameters()).add_(0.1)
    with pytest.raises(ExportError, match="OpenVINO differs from torch by"):
        check_outputs(logits, network, images, "OpenVINO")


def test_files_that_are_no_model(openvino: Any, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="OpenVINO cannot load"):
        openvino_logits(tmp_path)
    with pytest.raises(ExportError, match="OpenVINO cannot read the model"):
        export_openvino(b"nonsense", tmp_path)


def test_in_a_run(openvino: Any, copy: Path) -> None:
    name = load_run(copy).outputs("search")["front"][0]
    run = hwnas.run(copy / "config.yaml", run_dir=copy, overrides={"export.openvino": True}, restart="export")
    (entry,) = [entry for entry in run.models if entry["id"] == name]
    found = entry["checks"]["openvino"]
    assert 0 < found["difference"] < 1e-4
    assert abs(found["test_accuracy"] - entry["checks"]["torch_test_accuracy"]) <= 0.5  # one of 200
    folder = copy / "models" / name
    assert f"test accuracy {found['test_accuracy']:.2f} %" in (folder / "README.md").read_text()
    assert {"model.bin", "model.xml"} <= {
        line.split("  ")[1] for line in (folder / "SHA256SUMS").read_text().splitlines()
    }
    subprocess.run(["sha256sum", "--quiet", "-c", "SHA256SUMS"], cwd=folder, check=True)
    hwnas.run(copy / "config.yaml", run_dir=copy, overrides={"export.openvino": False}, restart="export")
    assert not list(copy.glob("models/*/model.xml"))


def test_without_the_extra_a_run_says_so_before_anything_is_made(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "openvino":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.delitem(sys.modules, "openvino", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtraError, match=r"pip install 'hwnas\[openvino\]'"):
        hwnas.run(copy / "config.yaml", run_dir=copy, overrides={"export.openvino": True}, restart="all")
    assert load_run(copy).store.stage("report") is not None
