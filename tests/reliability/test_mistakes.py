"""The mistakes that users make most: one line that says what, where and the remedy, and no traceback."""

from __future__ import annotations

import os
import platform
import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import yaml
from PIL import Image

from hwnas.pipeline import locked
from tests.conftest import TINY, Command, write_config


def with_settings(*settings: str, command: str = "run") -> Callable[[Path], list[str]]:
    """The tiny experiment with some fields set."""

    def arguments(folder: Path) -> list[str]:
        options = [word for setting in settings for word in ("--set", setting.replace("FOLDER", str(folder)))]
        return [command, str(write_config(folder)), "--run-dir", str(folder / "run"), *options]

    return arguments


def with_file(text: str) -> Callable[[Path], list[str]]:
    """Another experiment file."""

    def arguments(folder: Path) -> list[str]:
        (folder / "own.yaml").write_text(text)
        return ["run", str(folder / "own.yaml")]

    return arguments


def with_images(classes: Iterable[str], empty: Iterable[str] = ()) -> Callable[[Path], list[str]]:
    """The users' own images, some classes without any."""

    def arguments(folder: Path) -> list[str]:
        for split in ("train", "validation", "test"):
            for name in (*classes, *empty):
                (folder / "images" / split / name).mkdir(parents=True)
            for name in classes:
                Image.new("RGB", (8, 8)).save(folder / "images" / split / name / "a.png")
        data = f"data={{name: imagefolder, path: {folder / 'images'}, size: 8}}"
        return with_settings(data)(folder)

    return arguments


def plain(*words: str) -> Callable[[Path], list[str]]:
    """These words."""
    return lambda folder: [word.replace("FOLDER", str(folder)) for word in words]


# What is done, and the exact message; FOLDER is that of the test.
MISTAKES: dict[str, tuple[Callable[[Path], list[str]], str]] = {
    "a file that is not there": (
        plain("run", "nope.yaml"),
        "cannot read nope.yaml: No such file or directory",
    ),
    "a folder for a file": (plain("run", "FOLDER"), "cannot read FOLDER: Is a directory"),
    "wrong YAML": (
        with_file("name: [1,\nseed: }"),
        "FOLDER/own.yaml is not valid YAML: while parsing a flow node expected the node content, but found "
        "'}' "
        'in "<unicode string>", line 2, column 7: seed: } ^',
    ),
    "no experiment": (
        with_file("hello"),
        "FOLDER/own.yaml is not an experiment: it holds str, not keys and values",
    ),
    "a key twice": (
        with_file("name: a\nname: b\n"),
        "FOLDER/own.yaml is not valid YAML: 'name' is given twice",
    ),
    "a missing key": (
        with_file(yaml.safe_dump({k: v for k, v in TINY.items() if k != "space"})),
        "FOLDER/own.yaml: space: Field required",
    ),
    "a misspelt key": (
        with_settings("search.evalutions=5"),
        "FOLDER/tiny.yaml: search.evalutions: unknown key; known: strategy, algorithm, evaluations, "
        "objectives, constraints, predictor, calibration_images, random_baseline, executor, workers, "
        "ray_address, evaluation_time_limit_s, lag, tensorboard (did you mean 'evaluations'?)",
    ),
    "a misspelt section": (
        with_settings("serach.evaluations=5"),
        "FOLDER/tiny.yaml: serach: unknown key; known: name, seed, data, space, training, latency, search, "
        "export (did you mean 'search'?)",
    ),
    "words for a number": (
        with_settings("training.steps=many"),
        "FOLDER/tiny.yaml: training.steps: Input should be a valid integer, unable to parse string as an "
        "integer (got 'many')",
    ),
    "true for a number": (
        with_settings("training.steps=true"),
        "FOLDER/tiny.yaml: training.steps: true and false are no value for this (got True)",
    ),
    "a field of a section that is none": (
        with_settings("name.first=x"),
        "--set name.first: name is not a section",
    ),
    "a setting without a value": (
        plain("run", "x.yaml", "--set", "seed"),
        "--set takes key.sub=value, got 'seed'",
    ),
    "a negative seed": (
        with_settings("seed=-1"),
        "FOLDER/tiny.yaml: seed: Input should be greater than or equal to 0 (got -1)",
    ),
    "a name that climbs": (
        with_settings("name=../x"),
        "FOLDER/tiny.yaml: name: String should match pattern '^[A-Za-z0-9][A-Za-z0-9._-]*$' (got '../x')",
    ),
    "a space that is not there": (
        with_settings("space.name=mobilenetv4"),
        "unknown space 'mobilenetv4'; known: mobilenetv3, proxyless, resnet50 (did you mean 'mobilenetv3'?)",
    ),
    "a block that is not there": (
        with_settings("space.stages=[{block: fusedd, width: 8, depth: 1, kernel: 3, expand: 1}]"),
        "stage1: unknown block 'fusedd'; known: mbconv, fused, basic (did you mean 'fused'?)",
    ),
    "data that is not there": (
        with_settings("data.name=cifar11"),
        "unknown dataset 'cifar11'; known: cluttered-digits, cifar10, imagefolder (did you mean 'cifar10'?)",
    ),
    "data without its folder": (
        with_settings("data={name: imagefolder, size: 8}"),
        "imagefolder: parameter 'path' is missing; give it beside the name",
    ),
    "a folder without the data": (
        with_settings("data={name: cifar10, path: FOLDER}"),
        "cifar10: FOLDER has no train images: neither train-*.parquet, nor train/state.json of "
        "save_to_disk, nor data_batch_1.bin",
    ),
    "a device that is not there": (
        with_settings("latency.device=onnx"),
        "unknown device 'onnx'; known: onnxruntime, openvino, ssh, torch, torch-cuda",
    ),
    "more threads than cores": (
        with_settings("latency.threads=1000"),
        f"threads is 1000; this machine has {os.cpu_count()} cores, give 1 to {os.cpu_count()}",
    ),
    "a board without an address": (
        with_settings("latency.device=ssh"),
        "device 'ssh' needs an address: ssh://user@host:port",
    ),
    "options for an address": (
        with_settings("latency.device=ssh://-oProxyCommand=x"),
        "ssh address '-oProxyCommand=x' is not of the form ssh://user@host:port or "
        "ssh://user@host:port/path/to/python, with a port of 1 to 65535; for anything else give the host a "
        "name in ~/.ssh/config",
    ),
    "a strategy that is not there": (
        with_settings("search.strategy=lina"),
        "unknown strategy 'lina'; known: random, nsga2, linas (did you mean 'linas'?)",
    ),
    "a predictor that is not there": (
        with_settings("search.predictor=gpp"),
        "unknown predictor 'gpp'; known: ridge, quadratic, svr, gp, xgboost, mlp, ensemble, auto (did you "
        "mean 'gp'?)",
    ),
    "an algorithm that is not there": (
        with_settings("search.algorithm=nsga3"),
        "unknown algorithm 'nsga3'; known: nsga2, unsga3, agemoea, ctaea, moead, ga (did you mean 'unsga3'?)",
    ),
    "an algorithm for other problems": (
        with_settings("search.algorithm=moead"),
        "algorithm 'moead' knows no constraints, and this search has some: latency_ms <= 1000; those that "
        "fit: nsga2, unsga3, agemoea, ctaea",
    ),
    "a way to train that is not there": (
        with_settings("training.strategy=sandwhich", command="train"),
        "unknown training.strategy 'sandwhich'; known: sandwich, attentive, progressive, uniform (did you "
        "mean 'sandwich'?)",
    ),
    "a teacher that is not there": (
        with_settings("training.teacher=FOLDER/nope", command="train"),
        "there is no supernet in FOLDER/nope (no supernet.json); train one: hwnas train CONFIG --run-dir "
        "FOLDER/nope",
    ),
    "a batch larger than the data": (
        with_settings("training.batch_size=10000", command="train"),
        "600 training images are fewer than a batch of 10000; use a smaller training.batch_size",
    ),
    "a negative budget": (
        with_settings("latency.budgets_ms=[-1]"),
        "FOLDER/tiny.yaml: latency.budgets_ms: budgets are positive numbers of milliseconds (got [-1])",
    ),
    "a metric that is not there": (
        with_settings("search.constraints={energy: {upper: 5}}"),
        "FOLDER/tiny.yaml: search: 'energy' is no metric of this experiment; known: accuracy, latency_ms, "
        "macs, params, model_bytes, peak_activation_bytes",
    ),
    "a table that is not there": (
        with_settings("latency.table=FOLDER/nope.json"),
        "cannot read FOLDER/nope.json: No such file or directory",
    ),
    "a table to look at that is a folder": (
        plain("table", "show", "FOLDER"),
        "cannot read FOLDER: Is a directory",
    ),
    "a run that is not there": (
        plain("search", "FOLDER/nope"),
        "FOLDER/nope is not the folder of a run: it has no config.yaml; see hwnas run --help",
    ),
    "a stage that is not there": (
        plain("run", "x.yaml", "--restart", "serach"),
        "cannot read x.yaml: No such file or directory",
    ),
    "a class without images": (
        with_images(("cat",), empty=("dog",)),
        "imagefolder: FOLDER/images/train/dog is empty; give it images or remove it",
    ),
    "rows that are not there": (
        plain("bench", "predictor", "nope.csv", "--target", "ms"),
        "cannot read nope.csv: No such file or directory",
    ),
    "things that are not there": (
        plain("list", "device"),
        "cannot list 'device'; known: spaces, devices, predictors, strategies, algorithms (did you mean "
        "'devices'?)",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_gives_one_line(mistake: str, tmp_path: Path, hwnas_command: Command) -> None:
    arguments, message = MISTAKES[mistake]
    code, out, err = hwnas_command(*arguments(tmp_path))
    assert err == f"error: {message.replace('FOLDER', str(tmp_path))}\n"
    assert (code, out) == (1, "")


def test_debug_shows_where_an_error_comes_from(hwnas_command: Command) -> None:
    code, _, err = hwnas_command("run", "nope.yaml", "--debug")
    assert code == 1
    assert err.startswith("Traceback")
    assert "cannot read nope.yaml" in err


# ---- in the folder of a run ----------------------------------------------------------------------


@pytest.fixture
def copy(tiny_run: Path, tmp_path: Path) -> Path:
    """A copy of the finished tiny run."""
    return Path(shutil.copytree(tiny_run, tmp_path / "copy"))


def test_a_stage_that_is_not_there(tmp_path: Path, hwnas_command: Command) -> None:
    code, _, err = hwnas_command(
        "run", write_config(tmp_path), "--run-dir", tmp_path / "run", "--restart", "serach"
    )
    assert code == 1
    assert err == (
        "error: --restart serach: this makes profile, train, search, export, verify, report; choose one of "
        "these, or all\n"
    )


def test_a_stage_whose_settings_changed(copy: Path, hwnas_command: Command) -> None:
    code, _, err = hwnas_command("search", copy, "--set", "search.evaluations=30")
    assert code == 1
    setting = "--set search.evaluations=30"
    assert err == (
        f"error: {copy}: search was made with other inputs: search.evaluations was 24, is 30. "
        f"Undo the change, or keep this folder and use another one: cp -r {copy} {copy}-2 && "
        f"hwnas search {copy}-2 {setting} --restart search; or replace what search made here: "
        f"hwnas search {copy} {setting} --restart search; or continue the search: hwnas search {copy} "
        "--evaluations 30\n"
    )


def test_a_budget_that_nothing_keeps(copy: Path, hwnas_command: Command) -> None:
    code, _, err = hwnas_command("search", copy, "--latency-budget-ms", "1e-9", "--restart")
    assert code == 1
    assert re.fullmatch(
        r"error: no architecture keeps the latency budget of 1e-09 ms: the fastest one takes [0-9.]+ ms on "
        r"this device; raise latency.budgets_ms or choose a smaller space\n",
        err,
    )


def test_damaged_weights(copy: Path, hwnas_command: Command) -> None:
    weights = copy / "supernet" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-5] ^= 255
    weights.write_bytes(data)
    code, _, err = hwnas_command("search", copy, "--restart")
    assert code == 1
    assert err == (
        f"error: {weights} was changed since train made it; restore it from a copy, or make it again: "
        f"hwnas run {copy}/config.yaml --run-dir {copy} --restart train\n"
    )


def test_a_run_in_use(copy: Path, hwnas_command: Command) -> None:
    with locked(copy):
        code, _, err = hwnas_command("report", copy, "--restart")
    assert code == 1
    assert err == (
        f"error: {copy}: process {os.getpid()} of {platform.node()} is at work here; wait for it, or stop it "
        "(its lock ends with it: there is nothing to remove), or choose another --run-dir\n"
    )
