"""A model of a run fine-tuned: a new one beside it, and the run goes on as before."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hwnas
from hwnas import finetuning, pipeline
from hwnas.cli import main
from hwnas.errors import ConfigError
from hwnas.finetuning import _difference, finetune_model
from hwnas.networks.base import tensors_digest
from hwnas.pipeline import load_run
from hwnas.progress import Progress
from hwnas.store import read_json

pytestmark = pytest.mark.usefixtures("plain_reports")


@pytest.fixture
def copy(tiny_run: Path, tmp_path: Path) -> Path:
    """A copy of the finished tiny run."""
    return Path(shutil.copytree(tiny_run, tmp_path / "copy"))


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_new_model_stands_beside_the_old_one(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["hwnas", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        return int(stop.value.code or 0), *capsys.readouterr()

    before = load_run(copy).models
    model = before[0]["id"]
    old = files(copy / "models" / model)
    code, out, err = command("finetune", copy, "--model", model, "--epochs", 2, "--json")
    assert code == 0, err
    entry = json.loads(out)["model"]
    assert entry["id"] == f"{model}-ft2"
    assert files(copy / "models" / model) == old
    after = {row["id"]: row for row in load_run(copy).models}
    assert after.pop(f"{model}-ft2") == entry
    assert after == {row["id"]: row for row in before}
    made = entry["finetuned"]
    assert (made["from"], made["epochs"], made["steps"]) == (model, 2, 2 * (600 // 32))
    parent = after[model]
    assert entry["architecture"] == parent["architecture"]
    assert entry["validation_accuracy"] - parent["validation_accuracy"] == pytest.approx(made["gain"])
    low, high = made["gain_ci"]
    assert low <= made["gain"] <= high
    assert entry["measured"]["latency_ms"] > 0
    assert entry["status"] in ("verified", "unstable")
    plain = [hwnas.load_model(copy / "models" / name).state_dict() for name in (model, f"{model}-ft2")]
    assert tensors_digest(plain[0]) != tensors_digest(plain[1])
    new = files(copy / "models" / f"{model}-ft2")
    assert new["model.onnx"] != old["model.onnx"]
    assert f"| Fine-tuned | from model {model} for 2 epochs" in new["README.md"].decode()
    assert not (copy / "finetune").exists()
    # Done before: nothing is trained, and the run stands but for its report.
    monkeypatch.setattr(finetuning, "_train", None)
    code, out, _ = command("finetune", copy, "--model", model, "--epochs", 2)
    assert code == 0
    assert f"{model}-ft2: validation {entry['validation_accuracy']:.2f} %, was" in out
    code, _, err = command("finetune", copy, "--model", model, "--epochs", 2, "--learning-rate", 0.5)
    assert code == 1
    assert "learning_rate was 0.01, is 0.5; to replace it: hwnas finetune" in err
    assert command("report", copy)[0] == 0
    # Verified anew it is measured with the others, and neither is dropped for the other.
    assert command("verify", copy, "--restart")[0] == 0
    again = {row["id"]: row for row in load_run(copy).models}
    assert {model, f"{model}-ft2"} <= again.keys()
    assert len(again[f"{model}-ft2"]["verifications"]) == 2


class Stop(Exception):
    """Stands for a kill."""


def test_what_was_interrupted_goes_on(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = load_run(copy)
    model = run.models[0]["id"]
    steps: list[tuple[int, int]] = []

    def display(stage: str) -> Progress:
        def progress(done: int, total: int, text: str = "") -> None:
            steps.append((done, total))
            if stage == "finetune" and done == total:  # the last checkpoint is written
                raise Stop

        return progress

    with pytest.raises(Stop):
        finetune_model(run, model, 1, display=display)
    assert (copy / "finetune" / f"{model}-ft1" / "checkpoint.safetensors").exists()
    monkeypatch.setattr(finetuning, "amend", None)  # killed again, before it is in pareto.json
    with pytest.raises(TypeError):
        finetune_model(run, model, 1)
    exported = read_json(copy / "models" / f"{model}-ft1" / "architecture.json")
    monkeypatch.undo()
    monkeypatch.setattr(finetuning, "_train", None)
    entry = finetune_model(load_run(copy), model, 1)
    assert entry["validation_accuracy"] == exported["validation_accuracy"]
    assert entry["id"] in {row["id"] for row in load_run(copy).models}
    with pytest.raises(ConfigError, match=r"no model of .* that can be fine-tuned; known: "):
        finetune_model(load_run(copy), entry["id"], 1)


def test_killed_while_a_model_is_replaced_the_run_is_whole_without_it(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = load_run(copy).models
    model = before[0]["id"]
    entry = finetune_model(load_run(copy), model, 1)

    def killed(*arguments: object) -> None:
        raise Stop

    monkeypatch.setattr(pipeline.export, "write_entry", killed)
    with pytest.raises(Stop):
        finetune_model(load_run(copy), model, 1, learning_rate=0.02, again=True)
    monkeypatch.undo()
    run = load_run(copy)
    run.make(["verify", "report"])
    assert run.models == before
    assert {budget["model"] for budget in run.outputs("verify")["budgets"]} <= {row["id"] for row in before}
    anew = finetune_model(run, model, 1, learning_rate=0.02)
    assert anew["id"] == entry["id"]
    assert anew["finetuned"]["learning_rate"] == 0.02
    assert len(load_run(copy).models) == len(before) + 1


def test_a_run_that_is_not_verified_gets_an_exported_model(copy: Path) -> None:
    run = load_run(copy)
    run.store.reopen_stages(["verify", "report"])
    model = run.outputs("search")["front"][0]
    entry = finetune_model(run, model, 1, learning_rate=0.02)
    assert entry["finetuned"]["learning_rate"] == 0.02
    assert (entry["status"], entry["measured"]["latency_ms"]) == ("exported", None)
    anew = finetune_model(run, model, 1, again=True)["finetuned"]
    assert anew["learning_rate"] == 0.01
    assert anew["gain"] != entry["finetuned"]["gain"] or anew["gain_ci"] != entry["finetuned"]["gain_ci"]
    run.make(["verify"])
    models: dict[str, Any] = {row["id"]: row for row in run.models}
    assert models[f"{model}-ft1"]["measured"]["latency_ms"] > 0


def test_to_restart_takes_no_stage_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    arguments = ["finetune", str(tmp_path), "--model", "x", "--restart", "--epochs", "1"]
    monkeypatch.setattr(sys, "argv", ["hwnas", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 1
    assert "is not the folder of a run" in capsys.readouterr().err


def test_a_gain_is_that_on_the_same_images() -> None:
    generator = np.random.default_rng(0)
    before = generator.random(4000) < 0.8
    after = before.copy()
    after[:40] = True
    gain, half = _difference(before, after)
    assert gain == pytest.approx(100 * (after.mean() - before.mean()))
    assert 0 < half < gain  # far less than the ±1.2 points of each accuracy by itself
    assert _difference(before, before) == (0.0, 0.0)
