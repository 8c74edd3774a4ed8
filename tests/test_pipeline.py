"""The whole job: what is skipped, refused, made again, and resumed."""

from __future__ import annotations

import csv
import json
import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import yaml
from PIL import Image

import hwnas
from hwnas import pipeline
from hwnas.config import load_config
from hwnas.errors import (
    ConfigError,
    DeviceError,
    HwnasError,
    InfeasibleError,
    SearchError,
    StoreError,
    TrainingError,
)
from hwnas.latency.devices import DEVICES
from hwnas.latency.measure import Device
from hwnas.pipeline import STAGES, load_run, open_run, run_folder
from hwnas.progress import Progress, silent
from tests.conftest import write_config
from tests.latency.fakes import FakeDevice


@pytest.fixture
def copy(tiny_run: Path, tmp_path: Path) -> Path:
    """A copy of the finished tiny run."""
    return Path(shutil.copytree(tiny_run, tmp_path / "copy"))


def rows(run: Path, query: str) -> list[Any]:
    db = sqlite3.connect(run / "run.db")
    try:
        return db.execute(query).fetchall()
    finally:
        db.close()


def test_the_folder_of_a_run(tiny_run: Path) -> None:
    for name in (
        "config.yaml",
        "environment.json",
        "run.db",
        "supernet/model.safetensors",
        "supernet/supernet.json",
        "latency_table.json",
        "pareto.json",
        "evaluations.csv",
        "report.html",
        "figures/front.png",
    ):
        assert (tiny_run / name).is_file(), name
    pareto = json.loads((tiny_run / "pareto.json").read_text())
    assert pareto["schema"] == 1
    for model in pareto["models"]:
        assert set(model) == {
            "id",
            "architecture",
            "precision",
            "validation_accuracy",
            "test_accuracy",
            "predicted",
            "measured",
            "macs",
            "params",
            "model_bytes",
            "peak_activation_bytes",
            "budget_ms",
            "checks",
            "int8",
            "status",
            "verifications",
            "class_accuracy",
        }
        for split in ("validation", "test"):
            classes = model["class_accuracy"][split]
            assert list(classes) == list("0123456789")
            assert sum(counts["images"] for counts in classes.values()) == 200
            correct = sum(counts["correct"] for counts in classes.values())
            assert abs(correct / 2 - model[f"{split}_accuracy"]) <= (0 if split == "test" else 0.5)
        assert model["checks"]["images"] == 64
        assert 0 <= model["checks"]["difference"] <= 1e-4
        assert abs(model["checks"]["torch_test_accuracy"] - model["test_accuracy"]) <= 0.5  # one of 200
        folder = tiny_run / "models" / model["id"]
        entry = json.loads((folder / "architecture.json").read_text())
        entry.pop("sha256")
        assert entry == model
        properties = onnxruntime.InferenceSession(folder / "model.onnx").get_modelmeta().custom_metadata_map
        assert float(properties["test_accuracy"]) == model["test_accuracy"]
        assert float(properties["predicted_latency_ms"]) == model["predicted"]["latency_ms"]
        assert properties["runtime"].startswith("onnxruntime ")
        assert json.loads(properties["size"]) == [model["architecture"]["resolution"]] * 2
        names = ("mean", "std", "classes", "device", "threads", "opset", "channel_order", "layout")
        assert all(properties[name] for name in names)
        assert f"model {model['id']}" in (folder / "README.md").read_text()
        low, high = model["measured"]["latency_ci_ms"]
        assert low <= model["measured"]["latency_ms"] <= high
        assert model["budget_ms"] == 1000.0
    with (tiny_run / "evaluations.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 24
    assert load_config(tiny_run / "config.yaml").search.evaluations == 24


def test_exactly_the_asked_number_of_evaluations(tiny_run: Path) -> None:
    for search in ("search", "random-baseline"):
        assert rows(tiny_run, f"SELECT count(*) FROM rounds WHERE search = '{search}'") == [(24,)]


def test_splits_share_no_scene(tiny_run: Path) -> None:
    run = load_run(tiny_run)
    images = {s: {i.numpy().tobytes() for i in run.data(s).images} for s in ("train", "validation", "test")}
    assert len(images["train"]) == 600
    assert not images["train"] & images["validation"]
    assert not images["train"] & images["test"]
    assert not images["validation"] & images["test"]


def test_running_again_does_nothing_twice(copy: Path) -> None:
    def files() -> dict[Path, bytes]:
        return {p: p.read_bytes() for p in copy.rglob("*") if p.is_file() and "run.db" not in p.name}

    def contents() -> list[list[Any]]:
        return [rows(copy, f"SELECT * FROM {name}") for name in ("stages", "rounds", "measurements")]

    before = files(), contents()
    hwnas.run(copy / "config.yaml", run_dir=copy)
    assert (files(), contents()) == before


@pytest.mark.parametrize(
    ("overrides", "stage", "difference"),
    [
        ({"training.steps": 50}, "train", r"training\.steps was 100, is 50"),
        ({"latency.rounds": 7}, "profile", "rounds was 6, is 7"),
        ({"search.evaluations": 30}, "search", r"search\.evaluations was 24, is 30"),
        ({"seed": 1}, "profile", "seed was 0, is 1"),
    ],
)
def test_other_inputs_are_refused_and_spelled_out(
    copy: Path, overrides: dict[str, Any], stage: str, difference: str
) -> None:
    before = (copy / "config.yaml").read_bytes()
    with pytest.raises(
        StoreError, match=f"{stage} was made with other inputs: {difference}.*restart='{stage}'"
    ):
        hwnas.run(copy / "config.yaml", run_dir=copy, overrides=overrides)
    assert (copy / "config.yaml").read_bytes() == before


def test_a_changed_artefact_is_refused(copy: Path) -> None:
    path = copy / "latency_table.json"
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(StoreError, match=r"latency_table\.json was changed.*restart='profile'"):
        hwnas.run(copy / "config.yaml", run_dir=copy)
    path.unlink()
    with pytest.raises(StoreError, match=r"latency_table\.json is gone.*restart='profile'"):
        hwnas.run(copy / "config.yaml", run_dir=copy)


def test_restarting_a_stage_remakes_what_follows_and_nothing_else(copy: Path) -> None:
    before = dict(rows(copy, "SELECT name, created FROM stages"))
    accuracies = rows(copy, "SELECT * FROM measurements ORDER BY 1, 2, 3")
    front = rows(copy, "SELECT architecture FROM rounds WHERE search = 'search' ORDER BY number, position")
    hwnas.run(copy / "config.yaml", run_dir=copy, restart="search")
    after = dict(rows(copy, "SELECT name, created FROM stages"))
    assert {name for name in STAGES if after[name] != before[name]} == {
        "search",
        "export",
        "verify",
        "report",
    }
    # The same seed asks for the same architectures, whose accuracies are known.
    assert rows(copy, "SELECT * FROM measurements ORDER BY 1, 2, 3") == accuracies
    again = rows(copy, "SELECT architecture FROM rounds WHERE search = 'search' ORDER BY number, position")
    assert again == front


def test_an_unknown_stage_is_named(copy: Path) -> None:
    with pytest.raises(ConfigError, match="--restart serch: this makes profile, train"):
        hwnas.run(copy / "config.yaml", run_dir=copy, restart="serch")


class Stop(Exception):
    """Stands for a kill."""


def stop_at(stage: str, calls: int) -> Any:
    """A display that stops the work in a stage after so many reports."""

    def display(name: str) -> Progress:
        seen = 0

        def progress(done: int, total: int, text: str = "") -> None:
            nonlocal seen
            seen += 1
            if name == stage and seen >= calls:
                raise Stop

        return progress

    return display


@pytest.mark.parametrize(
    ("stage", "calls"),
    [
        ("train", 1),
        ("search", 5),
        pytest.param("search", 30, marks=pytest.mark.slow),
        pytest.param("export", 2, marks=pytest.mark.slow),
        ("verify", 2),
    ],
)
def test_an_interrupted_run_ends_as_one_that_was_not(
    tiny_run: Path, tmp_path: Path, stage: str, calls: int
) -> None:
    config = write_config(tmp_path, latency={"table": str(tiny_run / "latency_table.json")})
    folder = tmp_path / "run"
    with pytest.raises(Stop):
        hwnas.run(config, run_dir=folder, display=stop_at(stage, calls))
    run = hwnas.run(config, run_dir=folder)
    query = "SELECT search, number, position, architecture FROM rounds ORDER BY 1, 2, 3"
    assert rows(folder, query) == rows(tiny_run, query)
    query = "SELECT architecture, metric, value FROM measurements ORDER BY 1, 2"
    assert rows(folder, query) == rows(tiny_run, query)
    assert run.outputs("search")["front"] == load_run(tiny_run).outputs("search")["front"]


def test_unreachable_budgets_are_found_before_training(tmp_path: Path, tiny_run: Path) -> None:
    table = str(tiny_run / "latency_table.json")
    config = write_config(tmp_path, latency={"table": table, "budgets_ms": [1e-9, 1e-8]})
    with pytest.raises(InfeasibleError, match=r"the fastest one takes [0-9.e-]+ ms"):
        hwnas.run(config, run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_predicted_accuracies_are_learnt_from_a_bounded_number(
    tiny_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = load_run(tiny_run).predicted_accuracy
    monkeypatch.setattr("hwnas.pipeline.job.LEARNT", 8)
    few = load_run(tiny_run).predicted_accuracy
    assert every.keys() == few.keys()
    assert every != few
    assert np.isfinite(list(few.values())).all()


def test_one_unreachable_budget_of_two_is_stated(tmp_path: Path, copy: Path) -> None:
    run = hwnas.run(
        copy / "config.yaml", run_dir=copy, overrides={"latency.budgets_ms": [1e-9, 1000.0]}, restart="search"
    )
    tight, loose = run.summary()["budgets"]
    assert tight["model"] is None
    assert loose["model"] == max(run.models, key=lambda m: m["validation_accuracy"])["id"]


def test_a_stage_needs_those_before_it(tmp_path: Path) -> None:
    job = open_run(write_config(tmp_path), run_dir=tmp_path / "run")
    with pytest.raises(StoreError, match=r"search needs profile, which is not finished; run: hwnas run"):
        job.make(["search"])


def test_a_stage_alone_is_made_again_and_nothing_before_it(copy: Path) -> None:
    job = load_run(copy)
    with pytest.raises(ConfigError, match="--restart train: this makes search; choose one of these, or all"):
        job.make(["search"], restart="train")
    supernet = (copy / "supernet" / "model.safetensors").read_bytes()
    job.make(["search"], restart="all")
    assert (copy / "supernet" / "model.safetensors").read_bytes() == supernet
    assert job.store.stage("export") is None
    job.close()


def test_changed_images_are_noticed(tmp_path: Path) -> None:
    for name, level in (("dark", 40), ("bright", 200)):
        for split in ("train", "val", "test"):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for i in range(20):
                Image.new("RGB", (16, 16), (level + i,) * 3).save(folder / f"{i}.png")
    config = write_config(
        tmp_path,
        data={"path": str(tmp_path / "photos"), "size": 16},
        training={"steps": 5, "batch_size": 16},
        search={"evaluations": 4, "random_baseline": False},
    )
    text = config.read_text().replace("cluttered-digits", "imagefolder")
    config.write_text(
        "\n".join(line for line in text.splitlines() if ": 200" not in line and ": 600" not in line)
    )
    hwnas.run(config, run_dir=tmp_path / "run")
    Image.new("RGB", (16, 16), (0, 0, 0)).save(tmp_path / "photos" / "train" / "dark" / "new.png")
    with pytest.raises(StoreError, match=r"train was made with other inputs: images\.train was"):
        hwnas.run(config, run_dir=tmp_path / "run")


def test_two_processes_do_not_work_in_one_folder(copy: Path) -> None:
    def display(stage: str) -> Progress:
        with pytest.raises(StoreError, match=f"process {os.getpid()} of .* is at work here"):
            load_run(copy).make(["report"])
        return lambda done, total, text="": None

    load_run(copy).make(["report"], display, restart="report")


def test_names_are_checked_before_anything_is_made(tmp_path: Path) -> None:
    for fields in ({"strategy": "linass"}, {"predictor": "gpp"}, {"strategy": "random", "predictor": "gp"}):
        with pytest.raises(SearchError, match=r"linass|gpp|predictor"):
            hwnas.run(write_config(tmp_path, search=fields), run_dir=tmp_path / "run")
        assert not (tmp_path / "run" / "latency_table.json").exists()


def test_an_experiment_takes_overrides_too(copy: Path) -> None:
    experiment = load_config(copy / "config.yaml")
    job = open_run(experiment, run_dir=copy, overrides={"seed": 9})
    assert job.config.seed == 9


def test_a_run_keeps_its_own_copy_of_a_table(copy: Path, tmp_path: Path) -> None:
    table = tmp_path / "board.json"
    shutil.copy(copy / "latency_table.json", table)
    overrides = {"latency.table": str(table)}
    hwnas.run(copy / "config.yaml", run_dir=copy, overrides=overrides, restart="profile")
    table.unlink()
    hwnas.run(copy / "config.yaml", run_dir=copy)


def test_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_folder("digits") == Path("runs/digits")
    assert run_folder("runs/digits") == Path("runs/digits")
    assert run_folder("runs") == Path("runs/runs")
    Path("digits").mkdir()
    Path("digits/config.yaml").write_text("the user's own")
    assert run_folder("digits") == Path("runs/digits")
    assert run_folder(tmp_path / "x") == tmp_path / "x"
    with pytest.raises(ConfigError, match="climbs out"):
        run_folder("../x")
    with pytest.raises(StoreError, match="is not the folder of a run"):
        load_run("nothing")
    assert not Path("runs").exists()


def measures(monkeypatch: pytest.MonkeyPatch, latency: Callable[[str], tuple[float, float]]) -> None:
    """Verify by what `latency` says of a model's id: milliseconds, and half the interval as a share."""

    def measure(models: dict[str, bytes], device: Device, *_: Any) -> dict[str, dict[str, Any]]:
        identity = device.identity
        about = {"date": "2026-01-01T00:00:00+00:00", "device": identity.device, "runtime": identity.runtime}
        found = {}
        for name in models:
            ms, half = latency(name)
            interval = [ms * (1 - half), ms * (1 + half)]
            found[name] = {**about, "latency_ms": ms, "latency_ci_ms": interval, "noise": [], "drift": None}
        return found

    monkeypatch.setattr(pipeline.verify, "measure_models", measure)


def test_a_model_that_misses_its_budget_is_marked_and_replaced(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The most accurate model turns out slower than the budget of 1000 ms, the others do not."""
    job = load_run(copy)
    found = {e.architecture.id: e.metrics for e in job.searched.evaluations}
    promised = max(job.outputs("search")["front"], key=lambda name: found[name]["accuracy"])

    def slow(name: str) -> tuple[float, float]:
        return 1001.0 if name == promised else found[name]["latency_ms"], 0.0005

    measures(monkeypatch, slow)
    run = hwnas.run(copy / "config.yaml", run_dir=copy, restart="verify")
    models = {model["id"]: model for model in run.models}
    assert models[promised]["status"] == "missed"
    assert models[promised]["budget_ms"] is None
    assert promised not in {evaluation.architecture.id for evaluation in run.front}
    (budget,) = run.summary()["budgets"]
    assert budget["missed"] == [promised]
    chosen = models[budget["model"]]
    assert chosen["status"] == "verified"
    next_best = max(metrics["accuracy"] for name, metrics in found.items() if name != promised)
    assert chosen["validation_accuracy"] == next_best


def test_a_latency_that_does_not_repeat_is_marked(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measures(monkeypatch, lambda name: (1.0, 0.2))
    run = hwnas.run(copy / "config.yaml", run_dir=copy, restart="verify")
    assert {model["status"] for model in run.models} == {"unstable"}


def test_a_budget_within_the_interval_is_undecidable_and_another_model_takes_its_place(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = load_run(copy)
    found = {e.architecture.id: e.metrics for e in job.searched.evaluations}
    promised = max(job.outputs("search")["front"], key=lambda name: found[name]["accuracy"])
    measures(monkeypatch, lambda name: (999.9 if name == promised else found[name]["latency_ms"], 0.001))
    run = hwnas.run(copy / "config.yaml", run_dir=copy, restart="verify")
    models = {model["id"]: model for model in run.models}
    assert (models[promised]["status"], models[promised]["budget_ms"]) == ("undecidable", None)
    (budget,) = run.summary()["budgets"]
    assert budget["undecidable"] == [promised]
    assert budget["missed"] == []
    assert models[budget["model"]]["status"] == "verified"
    measures(monkeypatch, lambda name: (999.9, 0.001))
    run = hwnas.run(copy / "config.yaml", run_dir=copy, restart="verify")
    (budget,) = run.summary()["budgets"]
    assert budget["model"] is None
    assert promised in budget["undecidable"]


def test_verifications_are_kept_and_compared(
    copy: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    measures(monkeypatch, lambda name: (2.0, 0.01))
    first = hwnas.run(copy / "config.yaml", run_dir=copy, restart="verify").models
    assert all(len(model["verifications"]) == 2 for model in first)  # that of the tiny run, and this
    measures(monkeypatch, lambda name: (2.5, 0.01))
    run = hwnas.run(copy / "config.yaml", run_dir=copy, restart="verify")
    again = {model["id"]: model["verifications"] for model in run.models}
    for model in first:
        now = again[model["id"]][-1]
        assert again[model["id"]][:-1] == model["verifications"]
        assert now["latency_ms"] == 2.5
        assert now["drift"] == pytest.approx(0.25)
        assert f"{model['id']} takes 2.5 ms, +25.0 % since " in caplog.text
    if len(again) > 1:
        assert "all models have moved, by +25.0 % in the median" in caplog.text


class DriftingDevice(FakeDevice):
    """Takes twice as long from the third pass on."""

    def measure(self, models: Any, plan: Any, progress: Any = silent) -> Any:
        if len(self.plans) == 2:
            self.disturb = lambda times: 2 * times
        return super().measure(models, plan, progress)


@pytest.mark.usefixtures("still_clock")
def test_a_noisy_table_is_kept_only_if_that_is_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices = []
    monkeypatch.setitem(DEVICES, "drifting", lambda threads: devices.append(DriftingDevice()) or devices[-1])
    latency = {"device": "drifting", "rounds": 12, "allow_noisy": False}
    config = write_config(tmp_path, latency=latency)
    run = open_run(config, run_dir=tmp_path / "run")
    with pytest.raises(DeviceError, match=r"above those of the fastest pass.*--set latency.allow_noisy=true"):
        run.make(["profile"])
    assert not (run.directory / "latency_table.json").exists()
    with pytest.raises(DeviceError, match="noisy"):  # what was refused is measured again
        open_run(config, run_dir=tmp_path / "run").make(["profile"])
    plans = [len(device.plans) for device in devices]  # one device checks, the next one measures
    assert plans[1] == plans[3] > 0
    run = open_run(config, run_dir=tmp_path / "run", overrides={"latency.allow_noisy": True})
    run.make(["profile"])  # or kept as it was measured
    assert not devices[5].plans
    assert run.table.protocol["noisy"]
    assert not list(run.directory.glob("*.unfinished"))


def test_an_interrupted_profile_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = FakeDevice()
    monkeypatch.setitem(DEVICES, "fake", lambda threads: device)
    run = open_run(write_config(tmp_path, latency={"device": "fake", "rounds": 12}), run_dir=tmp_path / "run")

    def stop(done: int, total: int, text: str = "") -> None:
        if len(device.plans) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.make(["profile"], lambda stage: stop)
    assert len(list((run.directory / "latency_table.unfinished").iterdir())) == 2
    run.make(["profile"])
    passes = 2 * run.table.protocol["passes"]  # those of the operators, those of the networks
    assert len(device.plans) == passes + 1  # the interrupted one twice
    assert not (run.directory / "latency_table.unfinished").exists()


def test_errors_are_hwnas_errors(tmp_path: Path) -> None:
    with pytest.raises(HwnasError, match="unknown dataset"):
        hwnas.run(write_config(tmp_path, data={"name": "nope"}), run_dir=tmp_path / "run")
    with pytest.raises(HwnasError, match="unknown device"):
        hwnas.run(write_config(tmp_path, latency={"device": "abacus"}), run_dir=tmp_path / "run2")


def test_config_and_environment_are_kept(tiny_run: Path) -> None:
    config = yaml.safe_load((tiny_run / "config.yaml").read_text())
    assert config["training"]["momentum"] == 0.9  # resolved, defaults included
    facts = json.loads((tiny_run / "environment.json").read_text())
    assert facts["cores"] >= 1
    assert facts["packages"]["torch"]


def test_the_users_own_images(tmp_path: Path) -> None:
    """Class folders of PNG files, without val and test: they are held out."""
    rng = np.random.default_rng(0)
    for position, name in enumerate(("dark", "bright", "striped")):
        folder = tmp_path / "photos" / "train" / name
        folder.mkdir(parents=True)
        for i in range(60):
            pixels = rng.integers(0, 100, (20, 24, 3)) + (0, 120, 0)[position]
            if name == "striped":
                pixels[:, ::2] += 120
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")
    config = write_config(
        tmp_path, training={"steps": 60}, search={"evaluations": 10, "random_baseline": False}
    )
    data = {"name": "imagefolder", "path": str(tmp_path / "photos"), "size": 16}
    run = hwnas.run(config, run_dir=tmp_path / "run", overrides={"data": data})
    assert run.space.classes == 3
    assert run.space.input_shape == (3, 16, 16)
    assert max(model["test_accuracy"] for model in run.models) > 60
    card = next((run.directory / "models").glob("*/README.md")).read_text()
    assert "bright, dark, striped" in card


def test_images_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    (tmp_path / "photos" / "train" / "only").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "photos" / "train" / "only" / "1.png")
    data = {"name": "imagefolder", "path": str(tmp_path / "photos"), "size": 16}
    with pytest.raises(HwnasError, match="at least 2 are needed"):
        hwnas.run(write_config(tmp_path), run_dir=tmp_path / "run", overrides={"data": data})


def test_a_training_as_the_experiment_says_is_what_is_kept_and_logged(tmp_path: Path) -> None:
    """One that learns from another run's supernet, with kernel matrices, averaged."""
    teacher = open_run(write_config(tmp_path, training={"steps": 2}), run_dir=tmp_path / "teacher")
    teacher.make(["train"])
    changes = {"kernel_transform": True, "average": 0.9, "teacher": str(tmp_path / "teacher"), "dropout": 0.2}
    config = write_config(tmp_path, training={"steps": 2, **changes})
    job = open_run(config, run_dir=tmp_path / "taught")
    job.make(["train"])
    net = hwnas.load_supernet(tmp_path / "taught")
    assert net.kernel_transform
    assert any(name.endswith("kernel_5to3") for name, _ in net.named_parameters())
    assert net.metadata["training"]["teacher"] == str(tmp_path / "teacher")
    assert "train: computed in fp32, channels last" in (tmp_path / "taught" / "hwnas.log").read_text()
    job.make(["train"])
    assert "teacher" not in teacher.store.stage("train")["inputs"]  # type: ignore[index]
    before = hwnas.load_supernet(tmp_path / "teacher").checksum
    hwnas.Supernet(teacher.space, rng=9).save(tmp_path / "teacher" / "supernet")
    with pytest.raises(StoreError, match=rf"train was made with other inputs: teacher was '{before}', is '"):
        open_run(config, run_dir=tmp_path / "taught").make(["train"])
    teacher.close()
    shutil.rmtree(tmp_path / "teacher")  # it has taught
    open_run(config, run_dir=tmp_path / "taught").make(["train"])
    with pytest.raises(TrainingError, match=r"unknown training\.strategy 'ofa'; known: sandwich"):
        open_run(config, run_dir=tmp_path / "no", overrides={"training.strategy": "ofa"}).make(["train"])
