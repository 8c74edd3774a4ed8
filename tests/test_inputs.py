"""Stored inputs against present ones: new, renamed and changed fields of the experiment."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import create_model

from hwnas import config
from hwnas.config import Experiment, Search, Training, load_config, parse_config
from hwnas.errors import ConfigError, StoreError, TrainingError
from hwnas.inputs import canonical, flat
from hwnas.networks.supernet import Supernet
from hwnas.pipeline import STAGES, Run, load_run
from hwnas.training import checkpoint
from hwnas.training.checkpoint import Arithmetic, State
from tests.conftest import write_config
from tests.training.small_data import tiny_space

SECTIONS = {"training": "training", "deep.search": "search"}
BOUNDS = {"constraints": {"latency_ms@a.b": {"upper": 2.0}, "macs": {"lower": 1.0}}}
CHANGES: dict[str, Any] = {"training.steps": 7, "training.flip": True, "training.teacher": "other", "seed": 3}


def inputs(training: dict[str, Any] | None = None, search: dict[str, Any] | None = None) -> dict[str, Any]:
    """The inputs of a stage as a run stores them."""
    sections = Training(**(training or {})).recipe, Search(**(search or {})).model_dump()
    plain: dict[str, Any] = json.loads(
        json.dumps({"training": sections[0], "deep": {"search": sections[1]}, "seed": 0})
    )
    return plain


def differing(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Keys that differ."""
    one, other = (dict(flat(canonical(each, SECTIONS))) for each in (before, now))
    return sorted(key for key in one | other if one.get(key) != other.get(key))


@given(
    st.sets(st.sampled_from(list(Training.model_fields))), st.sets(st.sampled_from(list(Search.model_fields)))
)
def test_fields_that_an_older_run_does_not_store_have_their_default(
    training: set[str], search: set[str]
) -> None:
    now, before = inputs(search=BOUNDS), inputs(search=BOUNDS)
    before["training"] = {k: v for k, v in before["training"].items() if k not in training}
    kept = {"constraints"} | (Search.model_fields.keys() - search)
    before["deep"]["search"] = {k: v for k, v in before["deep"]["search"].items() if k in kept}
    for bound in before["deep"]["search"]["constraints"].values():  # a nested section that has grown
        for name in ("upper", "lower"):
            if bound[name] is None:
                del bound[name]
    assert differing(before, now) == []


@given(st.sampled_from(list(CHANGES)), st.booleans())
def test_a_changed_value_differs_whether_or_not_the_other_is_stored(key: str, stored: bool) -> None:
    before, now = inputs(), inputs()
    section, _, name = key.rpartition(".")
    (now[section] if section else now)[name] = CHANGES[key]
    if not stored and section:
        del before[section][name]
    assert differing(before, now) == [key]


def test_a_default_that_changed_differs_from_the_stored_old_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs store all fields, so the old default is explicit."""
    later = create_model("Later", __base__=Training, steps=(int, 9))
    monkeypatch.setitem(
        Experiment.model_fields,
        "training",
        create_model("E", training=(later, later())).model_fields["training"],
    )
    before, now = inputs(), inputs({"steps": 9})
    assert differing(before, now) == ["training.steps"]
    assert differing(now, now) == []
    del now["training"]["steps"]
    assert differing(before, now) == ["training.steps"]


def test_a_renamed_field_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    before, now = inputs({"steps": 5, "average": 0.5}), inputs({"steps": 5, "average": 0.5})
    before["training"]["decay"] = before["training"].pop("average")
    assert differing(before, now) == ["training.average", "training.decay"]
    monkeypatch.setattr(config, "RENAMED", {"training.decay": "average"})
    assert differing(before, now) == []
    before["training"]["decay"] = 0.25
    assert differing(before, now) == ["training.average"]


def test_an_experiment_is_read_by_old_names(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = write_config(tmp_path, training={"steps": 5, "decay": 0.5})
    with pytest.raises(ConfigError, match=r"training\.decay: unknown key"):
        load_config(path)
    monkeypatch.setattr(config, "RENAMED", {"training.decay": "average"})
    assert load_config(path).training.average == 0.5
    data = load_config(path).model_dump()
    with pytest.raises(ConfigError, match=r"training\.decay is the old name of average; leave out decay"):
        parse_config({**data, "training": {**data["training"], "decay": 0.5}})


def test_inputs_without_the_section_are_kept() -> None:
    assert canonical({"training": None, "x": [1]}, {"training": "training", "a.b": "search"}) == {
        "training": None,
        "x": [1],
    }


def test_the_checkpoint_of_an_older_training_is_resumed(tmp_path: Path) -> None:
    net = Supernet(tiny_space())
    state = State(net, torch.optim.SGD(net.parameters()), Arithmetic("fp32", True))
    now = {"supernet": net.checksum, **Training().recipe}
    older = {key: value for key, value in now.items() if key not in ("cutout", "loss", "strategy")}
    checkpoint.save(tmp_path / "c", state, older)
    checkpoint.check(tmp_path / "c", now)
    with pytest.raises(TrainingError, match=r"is of another training \(cutout was 0, is 4\)"):
        checkpoint.check(tmp_path / "c", {**now, "cutout": 4})


# ---- a run's folder -------------------------------------------------------------------------------


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path) -> Run:
    """A finished run whose stored inputs may be changed."""
    job = load_run(shutil.copytree(tiny_run, tmp_path / "copy"))
    job.open_store()
    return job


def store_inputs(run: Run, name: str, changed: dict[str, Any]) -> None:
    stage = run.store.stage(name)
    assert stage is not None
    run.store.finish_stage(name, changed, stage["outputs"])


def test_an_older_run_that_stores_fewer_fields_is_up_to_date(run: Run) -> None:
    absent = {
        "train": [("training", "loss"), ("training", "cutout"), ("training", "drop_connect")],
        "profile": [("cores",)],
        "search": [("search", "lag"), ("search", "algorithm"), ("search", "constraints")],
        "export": [("export", "openvino"), ("export", "int8"), ("export", "max_accuracy_loss")],
        "verify": [("cores",)],
        "report": [("search", "search", "lag")],
    }
    for name, places in absent.items():
        done = run.store.stage(name)
        assert done is not None
        for *parents, last in places:
            section = done["inputs"]
            for parent in parents:
                section = section[parent]
            del section[last]
        store_inputs(run, name, done["inputs"])
    assert run.check(tuple(STAGES)) == []


def test_an_absent_field_is_shown_by_its_default(run: Run) -> None:
    done = run.store.stage("train")
    assert done is not None
    del done["inputs"]["training"]["cutout"]
    store_inputs(run, "train", done["inputs"])
    changed = load_run(run.directory, {"training.cutout": 4})
    with pytest.raises(
        StoreError, match=r"train was made with other inputs: training\.cutout was 0, is 4\. "
    ):
        changed.check(["train"])


def test_a_stored_value_that_is_the_default_no_more_is_shown(run: Run) -> None:
    done = run.store.stage("search")
    assert done is not None
    done["inputs"]["search"]["calibration_images"] = 512
    store_inputs(run, "search", done["inputs"])
    with pytest.raises(StoreError, match=r"search\.calibration_images was 512, is 128"):
        run.check(["search"])


def test_a_stage_stores_every_field_of_its_sections(run: Run) -> None:
    fields = {
        "train": ("training", Training.model_fields.keys() - {"report_every"}),
        "export": ("export", {"openvino", "int8", "max_accuracy_loss"}),
    }
    for name, (section, names) in fields.items():
        done = run.store.stage(name)
        assert done is not None
        assert done["inputs"][section].keys() == names
