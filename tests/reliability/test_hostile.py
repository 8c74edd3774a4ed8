"""What somebody else made: nothing in it is executed, nothing is written outside, nothing is sent."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import shutil
import socket
import subprocess
import sys
import zipfile
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

import hwnas
from hwnas.config import load_config, parse_override
from hwnas.errors import ConfigError, DeviceError, HwnasError, StoreError
from hwnas.export.card import Origin, model_card
from hwnas.export.predict import Predictor
from hwnas.latency.benchmark import read_model
from hwnas.latency.bundle import build_table
from hwnas.latency.devices import get_device
from hwnas.latency.formats import read_ofa
from hwnas.latency.runner import RunnerError, measure_bundle
from hwnas.latency.table import LatencyTable
from hwnas.ops import InputSpec
from hwnas.pipeline import load_run, run_folder
from hwnas.predictors import load_predictor
from hwnas.store import Store, read_json, write_json
from tests.conftest import CONNECTIONS, OF_THE_RUN, Command, write_config
from tests.reliability.make_fixtures import FIXTURES, SMALL

FIXTURE = FIXTURES / "schema-2"
NAMES = (
    "\x1b[31m\x1b]0;title\x07",
    "[red]x[/]",
    "<script>alert(1)</script>",
    "![x](http://a.example/x.png)",
    "a|b\nc",
    "\u202egnp.exe",
)


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.file),)


# ---- files that would execute ---------------------------------------------------------------------


def test_no_pickle_is_executed(tmp_path: Path) -> None:
    proof, file = tmp_path / "proof", tmp_path / "weights.pth"
    supernet = Path(shutil.copytree(FIXTURE / "supernet", tmp_path / "supernet"))
    model = Path(shutil.copytree(min((FIXTURE / "models").iterdir()), tmp_path / "model"))
    readers = {
        "Once-for-All": lambda: hwnas.load_ofa_checkpoint(file, "ofa_mbv3_d234_e346_k357_w1.0"),
        "supernet": lambda: (
            shutil.copy(file, supernet / "model.safetensors"),
            hwnas.load_supernet(supernet),
        ),
        "model": lambda: (shutil.copy(file, model / "model.safetensors"), hwnas.load_model(model)),
        "table": lambda: LatencyTable.load(file),
        "predictor": lambda: load_predictor(file),
        "store": lambda: Store(file),
        "ONNX": lambda: read_model(file, {}),
        "predict": lambda: Predictor(file),
        "results": lambda: build_table(file),
        "look-up table": lambda: read_ofa([file], "board"),
        "experiment": lambda: load_config(file),
    }
    for save in (pickle.dump, torch.save):
        with file.open("wb") as stream:
            save({"state_dict": {"x": Payload(proof)}}, stream)
        for read in readers.values():
            with pytest.raises(HwnasError):
                read()
            assert not proof.exists()


@pytest.mark.parametrize(
    "tag", ["!!python/object/apply:os.mkdir [PROOF]", "!!python/name:os.system ''", "!!python/module:os ''"]
)
def test_no_yaml_tag_is_executed(tag: str, tmp_path: Path) -> None:
    text, file = tag.replace("PROOF", str(tmp_path / "proof")), tmp_path / "x.yaml"
    file.write_text(f"name: {text}\n")
    for read in (
        lambda: load_config(file),
        lambda: parse_override(f"name={text}"),
        lambda: read_ofa([file], "b"),
    ):
        with pytest.raises(HwnasError):
            read()
    assert not (tmp_path / "proof").exists()


def test_results_of_a_bundle_are_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    bundle = tmp_path / "in" / "results.json"
    bundle.parent.mkdir()
    with zipfile.ZipFile(bundle, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../climbed", "x")
        archive.writestr(str(tmp_path / "absolute"), "x")
        link = zipfile.ZipInfo("link")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("bomb", bytes(50 << 20))
    with pytest.raises(StoreError, match=r"results\.json is not valid JSON"):
        build_table(bundle)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["in", "results.json"]


def test_a_bundle_names_pieces_by_their_digest_alone(tmp_path: Path) -> None:
    read: list[str] = []
    job = {"models": [["../../etc/passwd"]], "visits": [[0]], "warmup_runs": 0, "kept_runs": 1}
    plan = {"study": {}, "jobs": [{**job, "time_limit_s": None, "threads": 1}]}

    def member(name: str) -> bytes:
        read.append(name)
        return json.dumps(plan).encode()

    cwd = Path.cwd()
    os.chdir(tmp_path)
    try:
        with pytest.raises(RunnerError, match="no SHA-256"):
            measure_bundle(member)
    finally:
        os.chdir(cwd)
    assert read == ["job.json"]


def one_tensor_elsewhere(file: Path, location: str) -> Path:
    """A model whose weights are in another file."""
    weight = TensorProto(name="w", data_type=1, dims=[4], data_location=TensorProto.EXTERNAL)
    weight.external_data.add(key="location", value=location)
    inputs = [helper.make_tensor_value_info("input", 1, [4])]
    outputs = [helper.make_tensor_value_info("logits", 1, [4])]
    node = helper.make_node("Add", ["input", "w"], ["logits"])
    graph = helper.make_graph([node], "g", inputs, outputs, [weight])
    opset = [helper.make_opsetid("", 17)]
    file.write_bytes(helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString())
    return file


@pytest.mark.parametrize(
    "location", ["../secret.bin", "link.bin", "sub/../../secret.bin", "ABSOLUTE", "up/secret.bin"]
)
def test_weights_outside_a_models_folder_are_not_read(location: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret.bin"
    secret.write_bytes(np.arange(4, dtype=np.float32).tobytes())
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "link.bin").symlink_to(secret)
    (folder / "up").symlink_to(tmp_path)
    file = one_tensor_elsewhere(folder / "model.onnx", location.replace("ABSOLUTE", str(secret)))
    for read in (lambda: read_model(file, {}), lambda: Predictor(file)):
        with pytest.raises(StoreError, match=r"not a file in the model's own folder; it is not read"):
            read()
    for tensors in ("own.bin",):  # which may be read
        (folder / tensors).write_bytes(secret.read_bytes())
        data, _, _ = read_model(one_tensor_elsewhere(folder / "model.onnx", tensors), {})
        assert not onnx.load_from_string(data).graph.initializer[0].external_data


# ---- names ----------------------------------------------------------------------------------------


ADDRESSES = (
    "-oProxyCommand=touch x", "a -oProxyCommand=x", "a;touch x", "a$(touch x)", "a`touch x`", "a|touch x",
    "a\ntouch x", "a&touch x", "-a@b", "a@-b", "a@b/python;touch x", "a@b/$(x)", "a@b:22:22",
    "a@b:0", "a@b:99999", "a@b/py thon", "a@b/'x'", "[::1;x]", "a@b/../$IFS", "", "@", "a@", "a@b/~x/;y",
)  # fmt: skip


@pytest.mark.parametrize("address", ADDRESSES)
def test_an_address_that_could_be_an_option_or_a_command_is_refused(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "Popen", None)
    with pytest.raises(DeviceError, match=r"ssh address .* is not of the form"):
        get_device(f"ssh://{address}")


def test_an_address_is_never_a_word_of_a_shell_here() -> None:
    device = get_device("ssh://pi@192.168.1.7:22/~/hwnas/bin/python")
    assert device._arguments[0] == "ssh"
    assert device._arguments[-3:-1] == ["--", "pi@192.168.1.7"]


@pytest.mark.parametrize("path", ["../x", "runs/../../x", "runs/..", "a/../../x", ".."])
def test_a_run_does_not_climb(path: str) -> None:
    with pytest.raises(ConfigError, match="climbs out of runs/"):
        run_folder(path)


def test_names_do_not_act_in_a_model_card() -> None:
    entry = {
        "id": "0" * 12,
        "architecture": dict.fromkeys(NAMES, "<b>"),
        "validation_accuracy": 1.0,
        "test_accuracy": 1.0,
        "predicted": {"latency_ms": 1.0},
        "measured": {"latency_ms": None},
        "macs": 1,
        "params": 1,
        "status": "exported",
    }
    origin = Origin(
        experiment="x",
        objectives=("accuracy",),
        training="Not at all.",
        dataset="cats",
        images={"train": 1, "validation": 1, "test": 1},
        preparation=" ".join(NAMES),
        inputs={
            "mean": [0.0],
            "std": [1.0],
            "image_size": [8, 8],
            "channel_order": "RGB",
            "normalization": "(value / 255 - mean) / std",
        },
        classes=NAMES,
    )
    card = model_card(
        entry, origin, inputs=[InputSpec("input", (3, 8, 8))], drawing="stem", device=" ".join(NAMES)
    )
    prose = card[: card.index("## Use")] + card[card.index("## Architecture") :]
    assert "<" not in prose
    assert "![" not in prose.replace("!\\[", "")
    assert all(c.isprintable() or c == "\n" for c in card)
    assert "a\\|b c" in prose


def renamed_table(file: Path, name: str) -> Path:
    """A table of a device of another name."""
    table = LatencyTable.load(FIXTURE / "latency_table.json")
    device = {**table.device, "name": name, "cpu": name}
    dataclasses.replace(table, device=device, runtime={**table.runtime, "version": name}).save(file)
    return file


@pytest.mark.parametrize("name", NAMES)
def test_names_do_not_act_on_a_terminal(name: str, tmp_path: Path, hwnas_command: Command) -> None:
    table = renamed_table(tmp_path / "table.json", name)
    for command in (("table", "show", table), ("table", "diff", table, table)):
        code, out, err = hwnas_command(*command)
        assert code == 0
        assert all(c.isprintable() or c in "\n\t" for c in out + err)
        if "\x1b" not in name and "\n" not in name and name.isprintable():
            assert name in out


def test_a_message_with_a_name_does_not_act_on_a_terminal(tmp_path: Path, hwnas_command: Command) -> None:
    file = tmp_path / "\x1b[31m\x1b]0;x\x07\u202e.yaml"
    file.write_text("name: [")
    for arguments in ((), ("--debug",)):
        code, out, err = hwnas_command("run", file, *arguments)
        assert code == 1
        assert "not valid YAML" in err
        assert all(c.isprintable() or c in "\n" for c in out + err)


# ---- a run's folder -------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run that somebody handed over."""
    return Path(shutil.copytree(FIXTURE, tmp_path / "given" / "run"))


@pytest.mark.parametrize("name", ["../../../climbed", "/absolute/climbed", "..", "", "a" * 12 + "/../x"])
def test_a_models_id_is_no_path(name: str, run: Path, hwnas_command: Command) -> None:
    pareto = read_json(run / "pareto.json")
    pareto["models"][0]["id"] = name
    write_json(run / "pareto.json", pareto)
    code, _, err = hwnas_command("front", run)
    assert code == 1
    assert f"names a model {name!r}, which is no folder of its own in models/" in err
    assert hwnas_command("report", run, "--restart")[0] == 1
    assert [p.name for p in run.parent.iterdir()] == ["run"]


@pytest.mark.parametrize("models", [3, [1], None, [{}]])
def test_a_front_is_a_list_of_models(models: object, run: Path, hwnas_command: Command) -> None:
    write_json(run / "pareto.json", {**read_json(run / "pareto.json"), "models": models})
    code, _, err = hwnas_command("front", run)
    assert code == 1
    assert err == f"error: {run / 'pareto.json'} does not hold a list of models; restore it from a copy\n"


def test_an_entry_is_that_of_its_folder(run: Path) -> None:
    folder = min((run / "models").iterdir())
    entry = read_json(folder / "architecture.json")
    write_json(folder / "architecture.json", {**entry, "id": "../../../climbed"})
    with closing(load_run(run)) as opened, pytest.raises(StoreError, match="is of the model"):
        hwnas.pipeline.read_entry(opened, folder.name)


@pytest.mark.parametrize("name", ["hwnas.log", ".lock", "run.db", "models", "supernet", "figures"])
def test_a_link_in_a_runs_folder_is_not_written_through(name: str, run: Path) -> None:
    outside = run.parent / "outside"
    if (run / name).is_dir() or name == "figures":
        shutil.copytree(run / name, outside) if (run / name).exists() else outside.mkdir()
        shutil.rmtree(run / name, ignore_errors=True)
    else:
        outside.write_bytes((run / name).read_bytes() if (run / name).exists() else b"mine")
        (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(outside)
    with pytest.raises(StoreError, match=r"is a symbolic link, and nothing is written outside"):
        load_run(run)


@pytest.mark.parametrize(
    "name",
    ["finetune/MODEL-ft1", "tensorboard/search", "int8/a/b/model.onnx", "supernet/checkpoint.safetensors"],
)
def test_a_link_below_is_not_written_through(name: str, run: Path, hwnas_command: Command) -> None:
    model, outside = min((run / "models").iterdir()).name, run.parent / "outside"
    link = run / name.replace("MODEL", model)
    outside.mkdir()
    (outside / "mine").write_bytes(b"mine")
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(outside / "mine" if link.suffix else outside)
    code, out, err = hwnas_command("finetune", run, "--model", model, "--epochs", "1", "--restart")
    assert (code, out) == (1, "")
    assert err.startswith(f"error: {link} is a symbolic link, and nothing is written outside")
    assert len(err.splitlines()) == 1
    assert {path.name: path.read_bytes() for path in outside.iterdir()} == {"mine": b"mine"}


def test_a_link_to_the_folder_of_a_run_is_as_good(run: Path, hwnas_command: Command) -> None:
    (run.parent / "link").symlink_to(run)
    assert hwnas_command("front", run.parent / "link")[:2] == hwnas_command("front", run)[:2]


def test_a_supernet_that_refers_in_circles_is_refused(tmp_path: Path) -> None:
    for folder, other in (("a", "b"), ("b", "c"), ("c", "b")):
        (tmp_path / folder).mkdir()
        data = {"schema": 1, "refers_to": f"../{other}", "checksum": "x"}
        write_json(tmp_path / folder / "supernet.json", data)
    with pytest.raises(StoreError, match="refers to itself"):
        hwnas.load_supernet(tmp_path / "a")


# ---- the network ----------------------------------------------------------------------------------

GUARD = """
import os, sys

def heard(event, arguments):
    kinds = ("socket.connect", "socket.bind", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname")
    if event in kinds or event == "urllib.Request":
        unix = event != "socket.getaddrinfo" and getattr(arguments[0], "family", None) == 1
        if not unix:
            with open(os.environ["HEARD"], "a") as file:
                file.write(f"{event} {arguments}\\n")

sys.addaudithook(heard)
"""


@pytest.mark.slow
def test_a_whole_run_opens_no_connection(tmp_path: Path) -> None:
    """Of Python's sockets, in all its processes; what compiled code opens is seen where nothing answers."""
    (tmp_path / "guard").mkdir()
    (tmp_path / "guard" / "sitecustomize.py").write_text(GUARD)
    search = {**SMALL["search"], "executor": "process", "workers": 1}
    config = write_config(tmp_path, **{**SMALL, "search": search})
    heard, root = tmp_path / "heard", Path(__file__).parents[2]
    paths = os.pathsep.join([str(tmp_path / "guard"), str(root)])
    environment = {**os.environ, "PYTHONPATH": paths, "HEARD": str(heard)}
    ask = "import socket; s = socket.socket(); s.connect_ex(('127.0.0.1', 9))"
    subprocess.run([sys.executable, "-c", ask], env=environment, check=True)
    assert "socket.connect" in heard.read_text()  # the guard is at its post
    heard.unlink()
    command = [sys.executable, "-m", "hwnas", "run", config, "--run-dir", tmp_path / "run"]
    done = subprocess.run(
        [*command, "--set", "export.int8=true"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not heard.exists(), heard.read_text()


def test_the_shared_run_opened_no_connection(tiny_run: Path) -> None:
    assert (tiny_run / "report.html").exists()
    assert OF_THE_RUN == []
    with socket.socket() as asking:
        asking.connect_ex(("127.0.0.1", 9))
    assert CONNECTIONS.pop()[0] == "socket.connect"  # they are heard
