from __future__ import annotations

import ast
import errno
import hashlib
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwnas.errors import DeviceError
from hwnas.latency import runner
from hwnas.latency.devices import get_device
from hwnas.latency.jobs import SHARED_FROM, Models, identity_of, make_job, samples_of, split
from hwnas.latency.measure import Plan
from hwnas.ops.onnx import onnx_model, random_weights
from hwnas.spaces import Operator

SHAPE = (64, 4, 4)
CONV = Operator("conv", SHAPE, SHAPE, (("k", 3), ("s", 1), ("act", "relu")))


def model(operators, seed=0) -> bytes:
    return onnx_model(operators, [random_weights(op, seed) for op in operators]).SerializeToString()


def test_pieces_make_the_model_and_shared_weights_are_one_piece():
    alone, both = model([CONV]), model([CONV, CONV])
    for data in (alone, both):
        assert b"".join(split(data)) == data
    assert len(split(alone)) > 1
    job, pieces = make_job([alone, both], Plan(((0, 1),)), 1)
    assert sum(map(len, pieces.values())) < len(alone) + SHARED_FROM
    for names, data in zip(job["models"], (alone, both), strict=True):
        assert runner.assemble(names, lambda name: pieces[name]) == data
    assert all(hashlib.sha256(data).hexdigest() == name for name, data in pieces.items())


def test_models_share_weights_in_memory_and_are_what_they_were():
    given = [model([CONV]), model([CONV, CONV]), b"no model"]
    models = Models(iter(given))
    assert list(models) == given
    assert [models.size(i) for i in range(3)] == [len(data) for data in given]
    assert list(models[1:]) == given[1:]
    assert list(models.of([2, 0])) == [given[2], given[0]]
    parts = {id(part): len(part) for part_of in models._parts for part in part_of}
    assert sum(parts.values()) < len(given[0]) + SHARED_FROM


@given(st.binary(max_size=100))
def test_anything_can_be_split(data):
    assert b"".join(split(data)) == data


def test_a_job_is_named_by_all_that_it_is():
    one = make_job([b"a", b"b"], Plan(((0, 1),)), 1)[0]
    ids = {
        runner.job_id(job)
        for job in (
            one,
            make_job([b"a", b"c"], Plan(((0, 1),)), 1)[0],
            make_job([b"a", b"b"], Plan(((1, 0),)), 1)[0],
            make_job([b"a", b"b"], Plan(((0, 1),), kept_runs=3), 1)[0],
            make_job([b"a", b"b"], Plan(((0, 1),), time_limit_s=3.0), 1)[0],
            make_job([b"a", b"b"], Plan(((0, 1),)), 2)[0],
        )
    }
    assert len(ids) == 6
    assert runner.job_id(one) == runner.job_id(make_job([b"a", b"b"], Plan(((0, 1),)), 1)[0])


VISITS = [[0], [1, 0]]
RECORDS = [
    {"seconds": 0.1, "cold_ns": 30},
    {"seconds": 0.2, "cold_ns": 40},
    {"seconds": 0.3, "rows": [[[5, 6, False], [5, 7, True]]]},
    {"seconds": 0.4, "rows": [[[8, 9, False], [8, 9, False]], [[1, 2, False], [3, 4, False]]]},
]


def test_records_become_samples():
    samples = samples_of(RECORDS, 2, VISITS, 2)
    assert samples.model.tolist() == [0, 1, 0]
    assert samples.time_ns.tolist() == [[5, 5], [8, 8], [1, 3]]
    assert samples.wall_ns.tolist() == [[6, 7], [9, 9], [2, 4]]
    assert samples.preempted.tolist() == [[False, True], [False, False], [False, False]]
    assert samples.cold_ns.tolist() == [30, 40]
    for n in (3, 2):
        fewer = samples_of(RECORDS[:n], 2, VISITS, 2)
        assert fewer.model.tolist() == [0][: n - 2]
        assert fewer.time_ns.shape == (n - 2, 2)


@pytest.mark.parametrize(
    "records",
    [
        RECORDS[:1],
        [*RECORDS, RECORDS[-1]],
        [RECORDS[0], {}, *RECORDS[2:]],
        [RECORDS[0], {"cold_ns": -1}, *RECORDS[2:]],
        [RECORDS[0], {"cold_ns": 1e400}, *RECORDS[2:]],
        [RECORDS[0], {"cold_ns": 10**30}, *RECORDS[2:]],
        [*RECORDS[:2], RECORDS[3]],
        [*RECORDS[:2], {"rows": [[[5, 6, False]]]}],
        [*RECORDS[:2], {"rows": [[[5, 6], [5, 6]]]}],
        [*RECORDS[:2], {"rows": [[[5, "6", 0], [5, 6, 0]]]}],
        [*RECORDS[:2], {"rows": [None]}],
        [*RECORDS[:2], {"rows": 3}],
    ],
)
def test_wrong_records_are_refused(records):
    with pytest.raises(DeviceError, match="wrong records"):
        samples_of(records, 2, VISITS, 2)


def test_a_job_has_the_cores_that_were_chosen():
    plan = Plan(((0,),))
    assert (
        not {"cores", "kept_cores"} & make_job([b"a"], plan, 1)[0].keys()
    )  # jobs of older versions have neither
    assert make_job([b"a"], plan, 1, (4, 5))[0]["cores"] == [4, 5]
    assert make_job([b"a"], replace(plan, cores=(3,)), 1)[0]["kept_cores"] == [3]


def test_samples_have_the_cores_of_the_records():
    assert samples_of(RECORDS, 2, VISITS, 2).cores == ()
    records = [{**RECORDS[0], "cores": [4, 5]}, *RECORDS[1:]]
    assert samples_of(records, 2, VISITS, 2).cores == (4, 5)
    for wrong in (3, ["a"], [-1], None):
        with pytest.raises(DeviceError, match="wrong records"):
            samples_of([{**RECORDS[0], "cores": wrong}, *RECORDS[1:]], 2, VISITS, 2)


def test_readings_of_a_clock_that_ran_backwards_are_dropped_later():
    records = [
        *RECORDS[:3],
        {"seconds": 0.4, "rows": [[[-7, 9, True], [8, 9, False]], RECORDS[3]["rows"][1]]},
    ]
    samples = samples_of(records, 2, VISITS, 2)
    assert samples.time_ns.tolist() == [[5, 5], [-7, 8], [1, 3]]
    assert samples.possible.tolist() == [[True, True], [False, True], [True, True]]
    assert runner.reading_counts(VISITS, records) == [(0, 4), (1, 2)]


@pytest.mark.parametrize(
    ("counts", "broken"),
    [
        ([(1, 20)], False),
        ([(1, 20), (1, 20)], True),
        ([(1, 500), (1, 1500)], False),
        ([(2, 1000), (1, 1000)], True),
        ([(3, 5), (0, 9995)], True),
        ([], False),
    ],
)
def test_a_clock_is_broken_by_its_share_of_impossible_readings(counts, broken):
    assert runner.is_clock_broken(counts) == broken


def test_wrong_identities_are_refused():
    identity = runner.onnxruntime_identity(1)
    assert identity_of(identity).runtime["name"] == "onnxruntime"
    for wrong in (
        {},
        {**identity, "device": {}},
        {**identity, "runtime": 3},
        [],
        {**identity, "device": "abc"},
    ):
        with pytest.raises(DeviceError, match="wrong identity"):
            identity_of(wrong)


def test_the_runner_is_python_3_8_and_needs_nothing_of_hwnas():
    with open(runner.__file__) as file:
        tree = ast.parse(file.read(), feature_version=(3, 8))
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(str(node.module).partition(".")[0])
    assert imported - sys.stdlib_module_names == {"numpy", "onnxruntime"}
    code = (
        "import runpy, sys; runpy.run_path(sys.argv[1], run_name='runner'); sys.exit('numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, runner.__file__], check=False).returncode == 0


def test_a_core_is_chosen_by_what_it_did():
    ticks = runner._busy_ticks()
    assert ticks
    assert all(n >= 0 for n in ticks.values())
    assert runner.memory_left() in (True, False)
    assert np.isfinite(runner.wall_ns(lambda: None))


def test_hidden_kernel_files_are_no_reason_to_fail(tmp_path, monkeypatch):
    """A directory in place of a file cannot be read, by root either."""
    for name in ("stat", "cpuinfo", "meminfo", "device-tree/model"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.setattr(runner, "PROC", tmp_path)
    assert runner._busy_ticks() == {}
    assert runner.memory_left()
    assert runner.cpu_name()
    samples = get_device("onnxruntime").measure([model([CONV])], Plan(((0,), (0,))))
    assert samples.time_ns.shape == (2, 5)


@pytest.mark.parametrize("text", ["cpu0\n", "cpu0 1 2\n\n", "no counters here\n"])
def test_a_strange_stat_file_names_no_busy_core(tmp_path, monkeypatch, text):
    (tmp_path / "stat").write_text(text)
    monkeypatch.setattr(runner, "PROC", tmp_path)
    assert runner._busy_ticks() == {}


def test_only_an_error_of_writing_is_called_one(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for error in (
        OSError(errno.ENOSPC, "No space left on device"),
        PermissionError(errno.EACCES, "Permission denied", str(runner.cache() / "lock")),
        PermissionError(errno.EACCES, "Permission denied", str(tmp_path)),
    ):
        assert runner.is_write_error(error)
    for error in (
        PermissionError(errno.EACCES, "Permission denied", "/proc/stat"),
        FileNotFoundError(errno.ENOENT, "No such file or directory", str(runner.cache() / "pieces" / "x")),
    ):
        assert not runner.is_write_error(error)
