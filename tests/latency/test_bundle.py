from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile

import pytest

from hwnas.errors import DeviceError, StoreError, TableError
from hwnas.latency import runner
from hwnas.latency.bundle import build_table, write_bundle
from hwnas.latency.jobs import make_job
from hwnas.latency.measure import Plan
from hwnas.latency.profiling import profile
from hwnas.testing.devices import conv
from tests.latency.fakes import small_space

SPACE = small_space(resolutions=(24,))  # operators that stand out from an empty call, whatever runs beside
SETTINGS = {"rounds": 4, "calibration_networks": 4, "held_out_networks": 3}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    path = tmp_path_factory.mktemp("bundle") / "board.zip"
    write_bundle(SPACE, path, **SETTINGS)
    return path


@pytest.fixture(scope="module")
def results(bundle):
    assert run(bundle, bundle.parent).returncode == 0
    return bundle.parent / "results.json"


def run(program, folder, **variables):
    """A board: Python that runs the bundle, without hwnas, with a cache and environment of its own."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache"), **variables}
    command = [sys.executable, "-P", str(program)]
    return subprocess.run(command, cwd=folder, env=environment, check=False, capture_output=True, text=True)


def test_a_bundle_takes_no_arguments(bundle, tmp_path):
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    command = [sys.executable, "-P", str(bundle), "--help"]
    found = subprocess.run(
        command, cwd=tmp_path, env=environment, check=False, capture_output=True, text=True
    )
    assert found.returncode == 1
    assert found.stderr.startswith("usage: python3 board.zip")
    assert not list(tmp_path.iterdir())


def test_what_a_board_measured_makes_the_table_that_it_would_be_here(results, tmp_path):
    table = build_table(results)
    here = profile(SPACE, **SETTINGS)
    assert set(table.operators) == set(here.operators)
    assert (table.device, table.runtime) == (here.device, here.runtime)
    assert table.calibration[0]["networks"] == 4
    assert table.calibration[0]["held_out"]["networks"] == 3
    assert table.protocol.keys() == here.protocol.keys()
    assert (table.protocol["rounds"], table.protocol["passes"]) == (4, 4)
    table.save(tmp_path / "table.json")
    assert (table.latency_ms(SPACE.sample(50, 0)) > 0).all()


def test_the_same_study_makes_the_same_file(bundle, tmp_path):
    write_bundle(SPACE, tmp_path / "again.zip", **SETTINGS)
    assert (tmp_path / "again.zip").read_bytes() == bundle.read_bytes()
    write_bundle(SPACE, tmp_path / "other.zip", **SETTINGS, seed=1)
    assert (tmp_path / "other.zip").read_bytes() != bundle.read_bytes()


def test_an_unpacked_bundle_goes_on_where_it_was_stopped(bundle, results, tmp_path):
    """The records of two passes are there, and half a record more: they stay as they are."""
    with zipfile.ZipFile(bundle) as archive:
        assert all(name == os.path.normpath(name) for name in archive.namelist())
        archive.extractall(tmp_path / "unpacked")
    found = json.loads(results.read_text())
    name = f"results-{found['bundle'][:12]}"
    first, second = found["records"][0], found["records"][1][:9]
    (tmp_path / f"{name}-0.part").write_text("".join(json.dumps(record) + "\n" for record in first))
    (tmp_path / f"{name}-1.part").write_text(
        "".join(json.dumps(record) + "\n" for record in second) + '{"seco'
    )
    done = run(tmp_path / "unpacked", tmp_path)
    assert done.returncode == 0, done.stderr
    again = json.loads((tmp_path / "results.json").read_text())
    assert again["records"][0] == first
    assert again["records"][1][:9] == second
    assert again["records"][2] != found["records"][2]
    assert build_table(tmp_path / "results.json").operators
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "results.json", "unpacked"]


def test_a_damaged_bundle_says_so(bundle, tmp_path):
    with zipfile.ZipFile(bundle) as archive:
        archive.extractall(tmp_path / "unpacked")
    piece = min((tmp_path / "unpacked" / "pieces").iterdir(), key=lambda path: path.stat().st_size)
    piece.write_bytes(b"x")
    done = run(tmp_path / "unpacked", tmp_path)
    assert done.returncode == 1
    assert f"piece {piece.name} is damaged" in done.stderr
    job = tmp_path / "unpacked" / "job.json"
    plan = json.loads(job.read_text())
    plan["jobs"][0]["models"][0] = ["../../secret"]
    job.write_text(json.dumps(plan))
    done = run(tmp_path / "unpacked", tmp_path)
    assert "no SHA-256" in done.stderr
    assert "Traceback" not in done.stderr
    (tmp_path / "cut.zip").write_bytes(bundle.read_bytes()[:1000])
    shutil.rmtree(tmp_path / "unpacked")
    assert run(tmp_path / "cut.zip", tmp_path).returncode == 1


def test_one_impossible_reading_in_results_is_dropped(results, tmp_path):
    data = json.loads(results.read_text())
    data["records"][0][-1]["rows"][0][0][0] = 0
    (tmp_path / "results.json").write_text(json.dumps(data))
    table = build_table(tmp_path / "results.json")
    assert table.protocol["dropped_readings"] == 1
    assert build_table(results).protocol["dropped_readings"] == 0


def test_a_part_of_a_broken_clock_is_not_kept(bundle, results, tmp_path):
    """The first pass is there; the clock stands still during the others."""
    (tmp_path / "sitecustomize.py").write_text("import time\ntime.thread_time_ns = lambda: 7\n")
    data = json.loads(results.read_text())
    part = tmp_path / f"results-{data['bundle'][:12]}-0.part"
    part.write_text("".join(json.dumps(record) + "\n" for record in data["records"][0]))
    done = run(bundle, tmp_path, PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert "timed runs took a time that is no positive number" in done.stderr
    assert "start it again" in done.stderr
    assert [path.name for path in tmp_path.glob("results*")] == [part.name]


def test_results_name_the_cores_of_all_passes(results):
    data = json.loads(results.read_text())
    assert "cores" not in data["study"]  # bundles of older versions keep their digests
    (cores,) = {tuple(records[0]["cores"]) for records in data["records"]}
    assert build_table(results).protocol["cores"] == list(cores)


def test_results_of_older_versions_name_no_cores(results, tmp_path):
    data = json.loads(results.read_text())
    for records in data["records"]:
        del records[0]["cores"]
    (tmp_path / "results.json").write_text(json.dumps(data))
    assert build_table(tmp_path / "results.json").protocol["cores"] is None


def test_a_bundle_measures_on_the_chosen_cores(tmp_path):
    core = max(os.sched_getaffinity(0))
    write_bundle(SPACE, tmp_path / "chosen.zip", cores=(core,), **SETTINGS)
    assert run(tmp_path / "chosen.zip", tmp_path).returncode == 0
    assert build_table(tmp_path / "results.json").protocol["cores"] == [core]
    with zipfile.ZipFile(tmp_path / "chosen.zip") as archive:
        archive.extractall(tmp_path / "other")
    job = tmp_path / "other" / "job.json"
    job.write_text(job.read_text().replace(f'"cores":[{core}]', '"cores":[4000]'))
    done = run(tmp_path / "other", tmp_path)
    assert done.returncode == 1
    assert "error: cores are 4000, but this process may use" in done.stderr


def test_a_bundle_begins_again_if_its_cores_may_not_be_used_any_more(bundle, results, tmp_path):
    data = json.loads(results.read_text())
    records = [{**data["records"][0][0], "cores": [4000]}, *data["records"][0][1:]]
    part = tmp_path / f"results-{data['bundle'][:12]}-0.part"
    part.write_text("".join(json.dumps(record) + "\n" for record in records))
    done = run(bundle, tmp_path)
    assert done.returncode == 0
    assert "cores 4000, on which it began, are no longer available; it begins again on cores" in done.stderr
    again = json.loads((tmp_path / "results.json").read_text())["records"]
    (cores,) = {tuple(records[0]["cores"]) for records in again}
    assert cores != (4000,)


def test_results_are_checked(results, tmp_path):
    path = tmp_path / "results.json"

    def build(**changes):
        path.write_text(json.dumps({**json.loads(results.read_text()), **changes}))
        return build_table(path)

    found = json.loads(results.read_text())
    assert build().operators
    records = found["records"]
    other = {**found["study"], "seed": 7}
    for error, message, changes in [
        (TableError, "another bundle", {"study": other}),
        (TableError, "another bundle", {"bundle": "0" * 64}),
        (TableError, "another bundle", {"records": records[:-1]}),
        (TableError, "schema 9", {"schema": 9}),
        (TableError, "no results of a bundle", {"study": {"seed": 1}}),
        (TableError, "no results of a bundle", {"study": None}),
        (DeviceError, "wrong identity", {"identity": {"device": {}}}),
        (DeviceError, "left visits out", {"records": [records[0][:-1], *records[1:]]}),
        (DeviceError, "wrong records", {"records": [records[0][:3], *records[1:]]}),
        (DeviceError, "wrong records", {"records": [[{"rows": []}] * len(records[0]), *records[1:]]}),
    ]:
        with pytest.raises(error, match=message):
            build(**changes)
    path.write_text("[]")
    with pytest.raises(StoreError, match="not a JSON object"):
        build_table(path)


# ---- boards without a home folder ---------------------------------------------------------------

NO_ENTRY = """
import os, pwd, runpy, sys
def no_entry(uid):
    raise KeyError(uid)
pwd.getpwuid = no_entry
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""  # a system on which the user has no entry in the password database, as in `docker run --user 12345`


@pytest.fixture(scope="module")
def small_bundle(tmp_path_factory):
    """A bundle of one small model, unpacked."""
    folder = tmp_path_factory.mktemp("small") / "bundle"
    job, pieces = make_job([conv(4, 4)], Plan(((0,),) * 2), 1)
    (folder / "pieces").mkdir(parents=True)
    shutil.copy(runner.__file__, folder / "__main__.py")
    (folder / "job.json").write_bytes(runner.canonical({"study": {}, "jobs": [job]}))
    for name, data in pieces.items():
        (folder / "pieces" / name).write_bytes(data)
    return folder


def run_at_home(bundle, folder, program=(), **environment):
    """Run a bundle in a folder with an environment of these variables alone; temporary files go there."""
    (folder / "temporary").mkdir(exist_ok=True)
    environment = {"PATH": os.environ["PATH"], "TMPDIR": str(folder / "temporary"), **environment}
    command = [sys.executable, "-P", *program, str(bundle)]
    return subprocess.run(
        command, cwd=folder, env=environment, check=False, capture_output=True, text=True, timeout=100
    )


@pytest.mark.parametrize(
    ("program", "environment"),
    [(("-c", NO_ENTRY), {}), ((), {"HOME": "/dev/null"}), ((), {"XDG_CACHE_HOME": "/dev/null/cache"})],
    ids=["no home folder", "a home that cannot be written", "a cache that cannot be written"],
)
def test_a_bundle_without_a_cache_uses_a_temporary_folder_and_says_so(
    small_bundle, tmp_path, program, environment
):
    done = run_at_home(small_bundle, tmp_path, program, **environment)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "temporary" / f"hwnas-{os.getuid()}"
    assert f"/hwnas cannot be written; {folder} is used (set XDG_CACHE_HOME" in done.stderr
    assert (folder / "lock").exists()
    assert len(json.loads((tmp_path / "results.json").read_text())["records"][0]) == 3


def test_a_cache_that_cannot_be_written_is_named(small_bundle, tmp_path):
    (tmp_path / "cache" / "hwnas" / "lock").mkdir(parents=True)
    done = run_at_home(small_bundle, tmp_path, XDG_CACHE_HOME=str(tmp_path / "cache"))
    assert done.returncode == 1
    assert done.stderr.startswith(
        f"error: cannot write to {tmp_path}/cache/hwnas ([Errno 21] Is a directory:"
    )
    assert done.stderr.endswith("; delete it, or set XDG_CACHE_HOME to another folder\n")
    done = run_at_home(small_bundle, tmp_path, XDG_CACHE_HOME=str(tmp_path / "other"))
    assert done.returncode == 0, done.stderr


def test_a_folder_that_takes_no_results_is_named(small_bundle, tmp_path):
    refused = NO_ENTRY.replace(
        "sys.argv =", f"os.access = lambda path, mode: path != {str(tmp_path)!r}\nsys.argv ="
    )
    done = run_at_home(small_bundle, tmp_path, ("-c", refused), XDG_CACHE_HOME=str(tmp_path / "cache"))
    assert done.returncode == 1
    assert (
        done.stderr
        == f"error: cannot write results in {tmp_path}; start it in a folder that can be written\n"
    )


def test_a_temporary_folder_of_another_user_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/dev/null")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = tmp_path / f"hwnas-{os.getuid()}"
    assert runner.cache() == folder
    folder.symlink_to(tmp_path)
    message = (
        rf"/dev/null/\.cache/hwnas cannot be written, and {folder} belongs to another user; set XDG_CACHE_"
    )
    with pytest.raises(runner.RunnerError, match=message):
        runner.cache()


def test_impossible_bundles_are_refused(tmp_path):
    with pytest.raises(TableError, match="at least 1"):
        write_bundle(SPACE, tmp_path / "x.zip", held_out_networks=0)
    assert not (tmp_path / "x.zip").exists()
