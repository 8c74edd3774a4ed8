"""Every remedy that hwnas prints is executed and removes the error that it was printed for."""

from __future__ import annotations

import re
import shlex
import shutil
import tempfile
import threading
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import yaml
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

import hwnas
from hwnas import pipeline
from hwnas.config import Training
from hwnas.errors import HwnasError, SearchError, StoreError
from hwnas.latency.devices import DEVICES
from hwnas.latency.measure import Device
from hwnas.pipeline import load_run, locked, open_run
from hwnas.store import temporary_folder
from hwnas.training.data import SPLITS, Dataset
from hwnas.training.loop import check_training
from tests.conftest import TINY, Command
from tests.latency.fakes import FakeDevice
from tests.reliability.conftest import QUICK, files_of, quick_config
from tests.reliability.remedies import (
    REMEDIES,
    ROOT,
    commands_in,
    messages,
    messages_in,
    missing_tests,
    unregistered,
    unused,
)
from tests.searching.problems import accuracy, objectives, toy_space

# ---- the registry --------------------------------------------------------------------------------


def test_every_remedy_is_registered_with_a_test_that_follows_it() -> None:
    found = messages()
    assert unregistered(found, REMEDIES) == []
    assert unused(found, REMEDIES) == []
    assert missing_tests(REMEDIES) == []
    assert all(bool(remedy.test) != bool(remedy.why_not) for remedy in REMEDIES)


def test_a_new_remedy_is_noticed() -> None:
    source = '''
def f(path, run):
    """Suggests nothing: hwnas run x.yaml"""
    log.info("made by hwnas, with -- a dash")
    raise StoreError(f"{path} is gone; run: hwnas train {path}")
    raise StoreError(f"again: {run.invocation.remake('train', ())}")
    give("add --restart to the command")
    give("pip install torch")
'''
    found = list(messages_in(source, "x.py"))
    assert [message.line for message in found] == [5, 6, 7, 8]
    assert unregistered(found, REMEDIES) == found


# ---- helpers -------------------------------------------------------------------------------------


def follow(message: str, hwnas_command: Command, number: int = 0, **placeholders: object) -> str:
    """Run a command that a message suggests, and check that it succeeds.

    Args:
        message: The message.
        hwnas_command: The fixture of that name.
        number: Which of the commands.
        placeholders: Values for words in capitals.

    Returns:
        The standard output and standard error of the command.
    """
    said = ""
    for part in commands_in(message)[number].split(" && "):
        program, *words = (str(placeholders.get(word, word)) for word in shlex.split(part))
        if program == "cp":
            shutil.copytree(words[1], words[2])
            continue
        assert program == "hwnas"
        code, out, err = hwnas_command(*words)
        assert code == 0, err
        said = out + err
    return said


def refused(hwnas_command: Command, *arguments: object) -> str:
    """Run a command that hwnas refuses; the message."""
    code, _, err = hwnas_command(*arguments)
    assert code == 1, err
    return err


def accepted(hwnas_command: Command, *arguments: object) -> str:
    """Run a command that hwnas accepts; its output."""
    code, out, err = hwnas_command(*arguments)
    assert code == 0, err
    return out + err


def settings_of(run: Path) -> dict[str, Any]:
    """The configuration that a run stores."""
    return dict(yaml.safe_load((run / "config.yaml").read_text()))


def reopen(run: Path, *stages: str) -> None:
    """Mark stages as unfinished."""
    job = load_run(run)
    job.store.reopen_stages(stages)
    job.close()


def corrupt(path: Path) -> None:
    """Change a byte of a file."""
    data = bytearray(path.read_bytes())
    data[-5] ^= 255
    path.write_bytes(data)


AFTER_SEARCH = ("export", "verify", "report")


# ---- stages with other inputs --------------------------------------------------------------------


def test_an_edited_experiment_is_trained_elsewhere_or_again(
    tmp_path: Path, quick: None, hwnas_command: Command
) -> None:
    folder = tmp_path / "my runs" / "mine"
    (tmp_path / "my files").mkdir()
    config = quick_config(tmp_path / "my files", training={"steps": 3})
    options = ["--run-dir", folder, "--seed", 3, "--set", "training.batch_size=16"]
    accepted(hwnas_command, "train", config, *options)
    quick_config(tmp_path / "my files", training={"steps": 5})
    before = files_of(folder)
    message = refused(hwnas_command, "train", config, *options)
    assert "training.steps was 3, is 5" in message
    assert files_of(folder) == before
    follow(message, hwnas_command)
    assert files_of(folder) == before
    for run in (folder.with_name("mine-2"), folder):
        follow(message, hwnas_command, 1)
        made = settings_of(run)
        assert (made["training"]["steps"], made["training"]["batch_size"], made["seed"]) == (5, 16, 3)
    accepted(hwnas_command, "train", config, *options)


def test_an_experiment_of_the_same_name_leaves_a_finished_run_as_it_is(
    quick_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hwnas_command: Command
) -> None:
    monkeypatch.chdir(quick_run.parents[1])
    shutil.move(quick_run, "runs/tiny")
    before = files_of(Path("runs/tiny"))
    other = quick_config(tmp_path, training={"steps": 3})
    message = refused(hwnas_command, "train", other)
    assert commands_in(message) == [
        f"hwnas train {other} --run-dir runs/tiny-2",
        f"hwnas train {other} --run-dir runs/tiny --restart train",
    ]
    follow(message, hwnas_command)
    assert files_of(Path("runs/tiny")) == before
    assert settings_of(Path("runs/tiny-2"))["training"]["steps"] == 3


def test_a_search_with_other_settings_is_made_in_a_copy_or_again(
    quick_run: Path, hwnas_command: Command
) -> None:
    before = files_of(quick_run)
    options = ["--set", "search.strategy=random", "--latency-budget-ms", "900"]
    message = refused(hwnas_command, "search", quick_run, *options)
    follow(message, hwnas_command)
    assert files_of(quick_run) == before
    follow(message, hwnas_command, 1)
    for run in (quick_run, quick_run.with_name("quick-2")):
        made = settings_of(run)
        assert (made["search"]["strategy"], made["latency"]["budgets_ms"]) == ("random", [900.0])
    accepted(hwnas_command, "search", quick_run, *options)


def test_a_search_with_more_evaluations_continues(quick_run: Path, hwnas_command: Command) -> None:
    message = refused(hwnas_command, "search", quick_run, "--set", "search.evaluations=14")
    follow(message, hwnas_command, 2)
    assert load_run(quick_run).outputs("search")["evaluations"] == 14
    accepted(hwnas_command, "search", quick_run, "--set", "search.evaluations=14")


def test_a_search_with_fewer_evaluations_begins_again(quick_run: Path, hwnas_command: Command) -> None:
    message = refused(hwnas_command, "search", quick_run, "--evaluations", 8)
    assert "would be fewer" in message
    follow(message, hwnas_command)
    assert load_run(quick_run).outputs("search")["evaluations"] == 8


def test_an_unfinished_search_with_other_settings_is_forgotten(
    quick_run: Path, hwnas_command: Command
) -> None:
    reopen(quick_run, "search", *AFTER_SEARCH)
    arguments = ["search", quick_run, "--set", "search.strategy=random"]
    message = refused(hwnas_command, *arguments)
    assert "add --restart search to the command" in message
    accepted(hwnas_command, *arguments, "--restart", "search")
    store = load_run(quick_run).store
    call = re.search(r"Store\.(forget_search)\('search'\)", message)
    assert call is not None
    getattr(store, call[1])("search")
    assert store.rounds("search") == []
    store.close()


def test_python_callers_get_python_calls(tmp_path: Path, quick: None) -> None:
    config = hwnas.load_config(quick_config(tmp_path, training={"steps": 3}, search={"evaluations": 6}))
    sizes = {split: QUICK["data"][split] for split in SPLITS}
    data = {}
    for split in SPLITS:
        made = hwnas.load_dataset("cluttered-digits", split, TINY["seed"], **sizes)
        loader = DataLoader(TensorDataset(made.images, made.labels), batch_size=64)
        data[split] = hwnas.from_loader(loader, made.classes, made.mean, made.std)
    folder = tmp_path / "run"
    names = {"hwnas": hwnas, "config": config, "data": data}
    with pytest.raises(StoreError, match="report is not finished") as caught:
        open_run(config, run_dir=folder, data=data).outputs("report")
    (finish,) = commands_in(str(caught.value))
    eval(finish, names).close()
    changed = {"search.evaluations": 7}
    with pytest.raises(StoreError) as caught:
        hwnas.run(config, run_dir=folder, overrides=changed, data=data)
    elsewhere, again, extend = commands_in(str(caught.value))
    eval(extend, names)
    run = load_run(folder)
    assert run.outputs("search")["evaluations"] == 7
    run.close()
    with pytest.raises(StoreError) as caught:
        hwnas.run(config, run_dir=folder, overrides={**changed, "search.strategy": "random"}, data=data)
    elsewhere, again = commands_in(str(caught.value))
    for call, made_in in ((elsewhere, tmp_path / "run-2"), (again, folder)):
        eval(call, names).close()
        assert settings_of(made_in)["search"]["strategy"] == "random"
    # The folder alone does not say where the data is.
    with pytest.raises(HwnasError, match=r"go on there: hwnas\.run\(…, data=…\)"):
        load_run(folder).make(["train"])


# ---- stages that are missing or damaged ----------------------------------------------------------


def test_a_damaged_supernet_is_trained_again_by_the_users_file(
    quick_run: Path, tmp_path: Path, hwnas_command: Command
) -> None:
    config = quick_config(tmp_path)
    arguments = ["run", config, "--run-dir", quick_run, "--set", "search.tensorboard=false"]
    corrupt(quick_run / "supernet" / "model.safetensors")
    message = refused(hwnas_command, *arguments)
    assert "was changed since train made it" in message
    follow(message, hwnas_command)
    accepted(hwnas_command, *arguments)


def test_stages_that_are_missing_are_made(quick_run: Path, hwnas_command: Command) -> None:
    reopen(quick_run, "search", *AFTER_SEARCH)
    message = refused(hwnas_command, "search", quick_run, "--evaluations", "+2")
    assert "go on from a finished search" in message
    follow(message, hwnas_command)
    accepted(hwnas_command, "search", quick_run, "--evaluations", "+2")
    message = refused(hwnas_command, "verify", quick_run, "--device", "torch")
    assert "has no exported models yet" in message
    follow(message, hwnas_command)
    message = refused(hwnas_command, "report", quick_run)
    assert "report needs verify, which is not finished" in message
    follow(message, hwnas_command)
    reopen(quick_run, "search", *AFTER_SEARCH)
    load_run(quick_run).store.forget_search("search")
    message = refused(hwnas_command, "front", quick_run)
    assert "search is not finished" in message
    follow(message, hwnas_command)
    accepted(hwnas_command, "front", quick_run)


def test_a_damaged_database_is_deleted_or_left(
    quick_run: Path, tmp_path: Path, hwnas_command: Command
) -> None:
    config = quick_config(tmp_path)
    (quick_run / "run.db").write_bytes(b"no database" * 100)
    message = refused(hwnas_command, "profile", config, "--run-dir", quick_run)
    assert "delete it" in message
    assert "use another run folder (--run-dir)" in message
    accepted(hwnas_command, "profile", config, "--run-dir", tmp_path / "other")
    (quick_run / "run.db").unlink()
    accepted(hwnas_command, "profile", config, "--run-dir", quick_run)
    accepted(hwnas_command, "train", config, "--run-dir", quick_run)


def test_a_folder_in_use_is_left_to_the_other_process(
    quick_run: Path, tmp_path: Path, hwnas_command: Command
) -> None:
    config = quick_config(tmp_path)
    with locked(quick_run):
        message = refused(hwnas_command, "profile", config, "--run-dir", quick_run, "--restart")
        assert "choose another --run-dir" in message
        accepted(hwnas_command, "profile", config, "--run-dir", tmp_path / "other")
    accepted(hwnas_command, "profile", config, "--run-dir", quick_run, "--restart")


def test_a_checkpoint_of_another_training_is_kept_or_deleted(
    tmp_path: Path, quick: None, hwnas_command: Command
) -> None:
    config, other = quick_config(tmp_path), ["--set", "training.learning_rate=0.05"]
    arguments = ["train", config, "--run-dir", tmp_path / "run"]
    accepted(hwnas_command, *arguments)
    reopen(tmp_path / "run", "train")
    message = refused(hwnas_command, *arguments, *other)
    assert "or train in another folder (--run-dir)" in message
    accepted(hwnas_command, "train", config, "--run-dir", tmp_path / "another", *other)
    path = re.search(r"(\S+checkpoint\.safetensors) is of another training .*; delete it to start", message)
    assert path is not None
    Path(path[1]).unlink()
    accepted(hwnas_command, *arguments, *other)


def test_a_folder_that_is_no_run_points_to_the_help(tmp_path: Path, hwnas_command: Command) -> None:
    message = refused(hwnas_command, "search", tmp_path / "nope")
    assert "CONFIG" in follow(message, hwnas_command)


# ---- another device ------------------------------------------------------------------------------


def test_a_second_device_gets_a_supernet_and_a_folder(
    quick_run: Path, tmp_path: Path, hwnas_command: Command
) -> None:
    table = Path(shutil.copy(quick_run / "latency_table.json", tmp_path / "a table.json"))
    search = ["search", quick_run, "--table", table]
    message = refused(hwnas_command, *search, "--run-dir", quick_run)
    assert "give the other device another --run-dir" in message
    reopen(quick_run, "train", "search", *AFTER_SEARCH)
    message = refused(hwnas_command, *search, "--run-dir", tmp_path / "board")
    assert "has no supernet yet" in message
    follow(message, hwnas_command)
    accepted(hwnas_command, *search, "--run-dir", tmp_path / "board")
    # The same command with other settings, and its own other folder.
    message = refused(
        hwnas_command, *search, "--run-dir", tmp_path / "board", "--set", "search.strategy=random"
    )
    follow(message, hwnas_command)
    assert settings_of(tmp_path / "board-2")["search"]["strategy"] == "random"
    follow(message, hwnas_command, 1)
    assert settings_of(tmp_path / "board")["search"]["strategy"] == "random"
    # Another supernet takes the place of the first.
    accepted(
        hwnas_command,
        *["train", quick_run / "config.yaml", "--run-dir", quick_run],
        *["--set", "training.steps=5", "--restart", "train"],
    )
    message = refused(hwnas_command, *search, "--run-dir", tmp_path / "board")
    assert "refers to another supernet" in message
    follow(message, hwnas_command)
    message = refused(hwnas_command, "search", tmp_path / "board", "--restart", "search")
    assert "is no longer the one" in message
    follow(message, hwnas_command, RUN=quick_run, TABLE=table, NEW=tmp_path / "anew")
    moved = shutil.move(quick_run, tmp_path / "moved")
    message = refused(hwnas_command, "search", tmp_path / "anew", "--restart", "search")
    assert "which is gone" in message
    follow(message, hwnas_command, RUN=moved, TABLE=table, NEW=tmp_path / "anew-2")


def test_models_of_another_device_are_verified_at_its_address(
    quick_run: Path, monkeypatch: pytest.MonkeyPatch, hwnas_command: Command
) -> None:
    monkeypatch.setitem(DEVICES, "fake", lambda threads: FakeDevice(name="this machine"))
    message = refused(hwnas_command, "verify", quick_run, "--restart")
    assert "the latency is of fake" in message
    monkeypatch.setitem(DEVICES, "ssh", lambda address, threads: FakeDevice())
    before = load_run(quick_run).models[0]["verifications"]
    reopen(quick_run, "verify", "report")
    follow(message, hwnas_command)
    assert len(load_run(quick_run).models[0]["verifications"]) == len(before) + 1


# ---- suggestions of commands that succeed --------------------------------------------------------


def test_the_next_command_is_named(quick_run: Path, hwnas_command: Command) -> None:
    said = accepted(hwnas_command, "search", quick_run, "--evaluations", "+1")
    assert "next: hwnas export" in said
    message = accepted(hwnas_command, "front", quick_run)
    assert "measure it: hwnas export" in message
    follow(said, hwnas_command)
    follow(message, hwnas_command)
    assert "Latency: measured" in accepted(hwnas_command, "front", quick_run)
    said = accepted(hwnas_command, "verify", quick_run)
    assert "to measure again" in said
    before = load_run(quick_run).models[0]["verifications"]
    follow(said, hwnas_command)
    assert len(load_run(quick_run).models[0]["verifications"]) == len(before) + 1


def test_a_finetuned_model_is_measured_and_made_again(quick_run: Path, hwnas_command: Command) -> None:
    reopen(quick_run, "verify", "report")
    model = load_run(quick_run).outputs("search")["front"][0]
    command = ["finetune", quick_run, "--model", model, "--epochs", 1]
    said = accepted(hwnas_command, *command)
    assert "Not measured yet" in said
    follow(said, hwnas_command)
    said = accepted(hwnas_command, *command)
    assert "all models: hwnas front" in said
    assert "Latency: measured" in follow(said, hwnas_command)
    message = refused(hwnas_command, *command, "--learning-rate", 0.02)
    assert "learning_rate was" in message
    assert "again=True" in message
    follow(message, hwnas_command)
    accepted(hwnas_command, *command, "--learning-rate", 0.02)
    # A damaged one is made again too.
    folder = quick_run / "models" / f"{model}-ft1"
    corrupt(folder / "model.safetensors")
    with pytest.raises(HwnasError) as caught:
        hwnas.load_model(folder)
    follow(str(caught.value), hwnas_command)
    hwnas.load_model(folder)


def test_an_interrupted_extension_continues(
    quick_run: Path, monkeypatch: pytest.MonkeyPatch, hwnas_command: Command
) -> None:
    def interrupt(self: object, facts: dict[str, str]) -> None:
        if facts["evaluations"].startswith("13"):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("hwnas.cli.display.StageDisplay.watch", interrupt)
        code, _, err = hwnas_command("search", quick_run, "--evaluations", "+3")
    assert code == 130
    follow(err, hwnas_command)
    assert load_run(quick_run).outputs("search")["evaluations"] == 15


def test_a_budget_that_no_model_kept_is_raised(
    quick_run: Path, monkeypatch: pytest.MonkeyPatch, hwnas_command: Command
) -> None:
    def slow(models: dict[str, bytes], device: Device, *_: Any) -> dict[str, dict[str, Any]]:
        about = {"date": "2026-01-01T00:00:00+00:00", "noise": [], "drift": None, "latency_ms": 2000.0}
        where = {"device": device.identity.device, "runtime": device.identity.runtime}
        return {name: {**about, **where, "latency_ci_ms": [1990.0, 2010.0]} for name in models}

    monkeypatch.setattr(pipeline.verify, "measure_models", slow)
    assert hwnas_command("verify", quick_run, "--restart")[0] == 3
    message = refused(hwnas_command, "front", quick_run)
    assert "too slow for every budget" in message
    follow(message, hwnas_command)
    accepted(hwnas_command, "front", quick_run)


# ---- files ---------------------------------------------------------------------------------------


def test_a_damaged_model_is_exported_again(quick_run: Path, tmp_path: Path, hwnas_command: Command) -> None:
    folder = quick_run / "models" / load_run(quick_run).outputs("search")["front"][0]
    picture = tmp_path / "picture.png"
    Image.new("L", (12, 12)).save(picture)

    def repair(error: str) -> None:
        follow(error, hwnas_command)
        hwnas.load_model(folder)
        accepted(hwnas_command, "predict", folder, picture)

    def error() -> str:
        with pytest.raises(HwnasError) as caught:
            hwnas.load_model(folder)
        return str(caught.value)

    corrupt(folder / "model.safetensors")
    repair(error())
    (folder / "model.json").unlink()
    repair(error())
    # A model without what hwnas export writes into it.
    model = onnx.load(folder / "model.onnx")
    del model.metadata_props[:]
    onnx.save(model, folder / "model.onnx")
    (folder / "SHA256SUMS").unlink()
    message = refused(hwnas_command, "predict", folder, picture)
    assert "needs a model that `hwnas export` wrote" in message
    accepted(hwnas_command, "export", quick_run, "--restart", "export")
    accepted(hwnas_command, "predict", folder, picture)


def test_an_edited_table_is_sealed_again(quick_run: Path, tmp_path: Path, hwnas_command: Command) -> None:
    table = Path(shutil.copy(quick_run / "latency_table.json", tmp_path / "my table.json"))
    table.write_text(re.sub(r'"ms": 0\.\d+', '"ms": 0.5', table.read_text(), count=1))
    follow(refused(hwnas_command, "table", "show", table), hwnas_command)
    accepted(hwnas_command, "table", "show", table)


def test_a_missing_teacher_is_trained(tmp_path: Path, quick: None, hwnas_command: Command) -> None:
    config = quick_config(tmp_path)
    arguments = ["train", config, "--run-dir", tmp_path / "run"]
    for teacher in ("my teacher", "another/supernet"):
        setting = f"training.teacher={tmp_path / teacher}"
        message = refused(hwnas_command, *arguments, "--set", setting)
        follow(message, hwnas_command, CONFIG=config)
    accepted(hwnas_command, *arguments, "--set", setting)


def test_a_folder_for_temporary_files_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(StoreError, match="name a folder: TMPDIR"), temporary_folder():
        pass
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with temporary_folder() as folder:
        assert folder.parent == tmp_path


# ---- options -------------------------------------------------------------------------------------

BENCH = ["bench", "predictor", "CSV", "--target", "ms", "--train", "20", "--predictor", "ridge"]
# A message, the words that cause it, and the words that the message asks for.
OPTIONS: dict[str, tuple[str, list[str], list[str]]] = {
    "no key": (
        "--set takes key.sub=value",
        ["train", "CONFIG", "--run-dir", "NEW", "--set", "seed"],
        ["train", "CONFIG", "--run-dir", "NEW", "--set", "seed=1"],
    ),
    "no YAML": (
        "is not a YAML value",
        ["train", "CONFIG", "--run-dir", "NEW", "--set", "seed={"],
        ["train", "CONFIG", "--run-dir", "NEW", "--set", "seed=1"],
    ),
    "no section": (
        "name is not a section",
        ["train", "CONFIG", "--run-dir", "NEW", "--set", "name.first=x"],
        ["train", "CONFIG", "--run-dir", "NEW", "--set", "name=x"],
    ),
    "no stage": (
        "this makes profile, train, search, export, verify, report; choose one of these, or all",
        ["run", "CONFIG", "--run-dir", "RUN", "--restart", "serach"],
        ["run", "CONFIG", "--run-dir", "RUN", "--restart", "report"],
    ),
    "no number": (
        "--evaluations takes a number, or +100 for so many more",
        ["search", "RUN", "--evaluations", "many"],
        ["search", "RUN", "--evaluations", "+1"],
    ),
    "a huge number": (
        "--evaluations is a number of at most 9 digits",
        ["search", "RUN", "--evaluations", "99999999999"],
        ["search", "RUN", "--evaluations", "13"],
    ),
    "more of another device's": (
        "give that folder, no --table",
        ["search", "RUN", "--evaluations", "+1", "--table", "TABLE", "--run-dir", "NEW"],
        ["search", "RUN", "--evaluations", "+1"],
    ),
    "a table without a folder": (
        "--table and --run-dir go together",
        ["search", "RUN", "--table", "TABLE"],
        ["search", "RUN", "--table", "TABLE", "--run-dir", "NEW"],
    ),
    "no learning rate": (
        "--learning-rate is 0; give a positive number",
        ["finetune", "RUN", "--model", "MODEL", "--epochs", "1", "--learning-rate", "0"],
        ["finetune", "RUN", "--model", "MODEL", "--epochs", "1", "--learning-rate", "0.01"],
    ),
    "names in a column": (
        "leave it out (--exclude name)",
        BENCH,
        [*BENCH, "--exclude", "name"],
    ),
    "texts in a column": (
        "cut it into characters (--split name)",
        BENCH,
        [*BENCH, "--split", "name"],
    ),
    "an open size": (
        "say its size: --input x:1x3x224x224",
        ["benchmark", "ONNX", "--rounds", "12", "--device", "fake"],
        ["benchmark", "ONNX", "--rounds", "12", "--device", "fake", "--input", "x:1x3x224x224"],
    ),
    "a size that does not fit": (
        "--input x does not fit its shape, 1x3xhxw",
        ["benchmark", "ONNX", "--rounds", "12", "--device", "fake", "--input", "x:1x4x8x8"],
        ["benchmark", "ONNX", "--rounds", "12", "--device", "fake", "--input", "x:1x3x8x8"],
    ),
    "no size": (
        "--input takes name:1x3x224x224",
        ["benchmark", "ONNX", "--rounds", "12", "--device", "fake", "--input", "x"],
        ["benchmark", "ONNX", "--rounds", "12", "--device", "fake", "--input", "x:1x3x8x8"],
    ),
}


@pytest.fixture
def named(quick_run: Path, tmp_path: Path) -> dict[str, Path]:
    """Files and folders by the words that stand for them."""
    rows = [f"{chr(97 + i // 9)}{chr(97 + i % 9)},{i},{i}" for i in range(81)]
    (tmp_path / "rows.csv").write_text("\n".join(["name,width,ms", *rows]) + "\n")
    shape = [1, 3, "h", "w"]
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)
    out = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, shape)
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "relu", [value], [out])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "open.onnx")
    return {
        "CONFIG": quick_config(tmp_path),
        "RUN": quick_run,
        "NEW": tmp_path / "new",
        "TABLE": quick_run / "latency_table.json",
        "CSV": tmp_path / "rows.csv",
        "ONNX": tmp_path / "open.onnx",
    }


@pytest.mark.parametrize("mistake", OPTIONS)
def test_an_option_is_corrected(mistake: str, named: dict[str, Path], hwnas_command: Command) -> None:
    message, wrong, right = OPTIONS[mistake]
    model = load_run(named["RUN"]).outputs("search")["front"][0]

    def words(line: list[str]) -> list[object]:
        return [{**named, "MODEL": model}.get(word, word) for word in line]

    assert message in refused(hwnas_command, *words(wrong))
    accepted(hwnas_command, *words(right))


TRAIN = ["train", "CONFIG", "--run-dir", "NEW", "--set", "training.steps=1"]
PROFILE = ["profile", "CONFIG", "--run-dir", "NEW"]
MACS = "search.objectives=[accuracy, macs]"
FURTHER = ["search.objectives=[accuracy, latency_ms@x]", "latency.further_tables={x: TABLE}"]
PRECISIONS = "space.precisions=[fp32, int8]"
# A message, a command, the settings that cause the message, and those that it asks for.
SETTINGS: dict[str, tuple[str, list[str], list[str], list[str]]] = {
    "latency as a constraint": (
        "latency_ms is bounded by latency.budgets_ms",
        PROFILE,
        ["search.constraints={latency_ms: {upper: 9}}"],
        ["latency.budgets_ms=[9]"],
    ),
    "8 bits for a table": (
        "leave out one of the two",
        PROFILE,
        [*FURTHER, "export.int8=true"],
        FURTHER,
    ),
    "no budget": (
        "latency.budgets_ms: give one",
        PROFILE,
        [MACS, "latency.budgets_ms=[]"],
        [MACS, "latency.budgets_ms=[9]"],
    ),
    "measured for nothing": (
        "latency.source: measured needs latency_ms as one of search.objectives",
        PROFILE,
        [MACS, "latency.source=measured"],
        ["search.objectives=[accuracy, latency_ms]", "latency.source=measured"],
    ),
    "several that time": (
        "set search.executor: serial",
        ["run", "CONFIG", "--run-dir", "NEW", "--set", "training.steps=1", "--set", "search.evaluations=4"],
        ["latency.source=measured", "search.executor=process"],
        ["latency.source=measured", "search.executor=serial"],
    ),
    "a predictor of two precisions": (
        "set latency.source: table",
        PROFILE,
        [PRECISIONS, "latency.source=predictor"],
        [PRECISIONS, "latency.source=table"],
    ),
    "a table of another batch": (
        "Set that to the table's",
        PROFILE,
        ["latency.table=TABLE", "latency.batch_size=2"],
        ["latency.table=TABLE", "latency.batch_size=1"],
    ),
    "a budget that nothing keeps": (
        "raise latency.budgets_ms",
        ["search", "RUN", "--restart"],
        ["latency.budgets_ms=[1.0e-9]"],
        ["latency.budgets_ms=[9]"],
    ),
    "8 bits on torch": (
        "set latency.device: onnxruntime",
        PROFILE,
        ["latency.device=torch", "export.int8=true"],
        ["latency.device=onnxruntime", "export.int8=true"],
    ),
    "a batch beyond the data": (
        "200 training images are fewer than a batch of 300; use a smaller training.batch_size",
        TRAIN,
        ["training.batch_size=300"],
        ["training.batch_size=200"],
    ),
    "a shift beyond the image": (
        "give at most 23",
        TRAIN,
        ["training.crop_padding=24"],
        ["training.crop_padding=23"],
    ),
    "no GPU": ("use device: cpu", TRAIN, ["training.device=cuda"], ["training.device=cpu"]),
    "unequal parts": (
        "cannot be divided into 3 equal parts",
        TRAIN,
        ["training.accumulate=3"],
        ["training.accumulate=2"],
    ),
    "a teacher of nobody": (
        "leave out training.teacher",
        TRAIN,
        ["training.strategy=uniform", "training.random_subnets=2", "training.teacher=RUN"],
        ["training.strategy=uniform"],
    ),
    "a loss of nobody": (
        "leave out training.loss",
        TRAIN,
        ["training.strategy=uniform", "training.loss=alpha"],
        ["training.strategy=uniform"],
    ),
    "phases without a step": (
        "give more",
        TRAIN,
        ["training.strategy=progressive"],
        ["training.strategy=progressive", "training.steps=8"],
    ),
}


@pytest.mark.parametrize("mistake", SETTINGS)
def test_a_setting_is_corrected(
    mistake: str, named: dict[str, Path], hwnas_command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setitem(DEVICES, "onnxruntime", DEVICES["fake"])
    message, command, wrong, right = SETTINGS[mistake]

    def words(settings: list[str]) -> list[object]:
        line = [*command, *(word for setting in settings for word in ("--set", setting))]
        for name, path in named.items():
            line = [word.replace(name, str(path)) for word in line]
        return list(line)

    assert message in refused(hwnas_command, *words(wrong))
    accepted(hwnas_command, *words(right))


def test_images_beyond_the_memory_are_streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("dark", "bright"):
        for split in ("train", "test"):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(10):
                Image.new("RGB", (300, 300), (i,) * 3).save(tmp_path / split / name / f"{i}.png")
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=4 << 20))
    with pytest.raises(HwnasError, match=r"lower data\.memory_mb below (\d+)") as caught:
        hwnas.load_dataset("imagefolder", path=str(tmp_path), size=300)
    below = re.search(r"below (\d+)", str(caught.value))
    assert below is not None
    data = hwnas.load_dataset("imagefolder", path=str(tmp_path), size=300, memory_mb=int(below[1]) - 1)
    assert len(data) > 0


def test_values_of_given_images_are_stated() -> None:
    images = hwnas.load_dataset("cluttered-digits", train=64, validation=32, test=32).images
    loader = DataLoader(TensorDataset(10 * images, torch.arange(64) % 10), batch_size=64)
    classes = tuple("0123456789")
    space = hwnas.get_space("mobilenetv3", **QUICK["space"], classes=10, channels=1)
    net = hwnas.Supernet(space)

    def check(data: Dataset, augment: bool) -> None:
        check_training(net, data, data, Training(batch_size=32, trivial_augment=augment))

    data = hwnas.from_loader(loader, classes)
    with pytest.raises(HwnasError, match=r"give from_loader the mean and std .*, or leave the setting out"):
        check(data, True)
    check(data, False)
    low, high = float(data.images.min()), float(data.images.max())
    check(hwnas.from_loader(loader, classes, [-low / (high - low)], [1 / (high - low)]), True)


def test_what_cannot_be_sent_is_evaluated_here() -> None:
    lock = threading.Lock()

    def locked_accuracy(archs: object) -> np.ndarray:
        with lock:
            return accuracy(archs)

    def search(executor: str) -> int:
        expensive = objectives(locked_accuracy)
        return len(hwnas.search(toy_space(), expensive, evaluations=4, executor=executor).evaluations)

    with pytest.raises(SearchError, match=r"evaluate here: executor='serial'"):
        search("process")
    assert search("serial") == 4


def test_a_search_takes_a_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    wrong: Any = "search.db"
    with pytest.raises(SearchError, match=r"store is a hwnas.Store, as (hwnas\.Store\('search\.db'\))"):
        hwnas.search(toy_space(), objectives(accuracy), evaluations=2, store=wrong)
    store = hwnas.Store("search.db")
    hwnas.search(toy_space(), objectives(accuracy), evaluations=2, store=store)
    store.close()


def test_statistics_of_a_subnet_are_computed(quick_run: Path) -> None:
    net = hwnas.load_supernet(quick_run)
    arch = net.space.sample(1, 0)[0]
    batches = [images for images, _ in load_run(quick_run).data("train").batches(64, 12)]
    with pytest.warns(UserWarning, match=r"pass statistics=hwnas\.calibrate\(net, arch, batches\)"):
        net(batches[0], arch)
    net = hwnas.load_supernet(quick_run)
    net(batches[0], arch, statistics=hwnas.calibrate(net, arch, batches))


def test_the_extras_that_messages_name_exist() -> None:
    """Installing them needs a network; that the names are right does not."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = {"agemoea"}  # algorithms name the extra after themselves
    for path in (ROOT / "hwnas").rglob("*.py"):
        named |= set(re.findall(r'MissingExtraError\("[\w-]+", "([\w-]+)"\)', path.read_text()))
    assert len(named) > 3
    assert named <= extras.keys()
