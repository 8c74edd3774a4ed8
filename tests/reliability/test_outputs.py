"""Output paths that are links, devices, pipes, folders or sockets."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import hwnas
from hwnas.errors import StoreError
from hwnas.latency.bundle import write_bundle
from hwnas.latency.formats import write_ofa
from hwnas.latency.predictor import LatencyPredictor, MeasuredNetwork
from hwnas.latency.table import LatencyTable
from hwnas.predictors import get_predictor
from hwnas.spaces import get_space
from hwnas.store import write_output
from tests.conftest import Command
from tests.latency.fakes import small_space
from tests.latency.test_formats import table_of
from tests.reliability.make_fixtures import FIXTURES
from tests.reliability.test_rubbish import bounded

SPACE = small_space(resolutions=(8,))
OFA_SPACE = get_space("mobilenetv3", resolutions=(128,))
TABLE = FIXTURES / "schema-3" / "latency_table.json"


def save_predictor(path: Path) -> None:
    rows = np.arange(24.0).reshape(12, 2)
    predictor = get_predictor("ridge")
    predictor.fit(rows, rows[:, 0])
    predictor.save(path)


def save_latency_predictor(path: Path) -> None:
    networks = [MeasuredNetwork(arch.values, 1.0 + i, 0.1, 3) for i, arch in enumerate(SPACE.sample(12, 0))]
    runtime = {"name": "r", "version": "1", "threads": 1, "precisions": ["fp32"], "batch_size": 1}
    LatencyPredictor(SPACE, networks, {"name": "d", "cpu": "d"}, runtime, {"repeatability_cv": 1.0}).save(
        path
    )


def export_network(path: Path) -> None:
    network = hwnas.build(SPACE, SPACE.sample(1, 0)[0])
    hwnas.export_onnx(network, path, (1, *network.input_shape))


WRITERS: dict[str, Callable[[Path], object]] = {
    "table": lambda path: LatencyTable.load(TABLE).save(path),
    "look-up table": lambda path: write_ofa(table_of(OFA_SPACE.all_operators()), path),
    "bundle": lambda path: write_bundle(SPACE, path, calibration_networks=4, held_out_networks=4),
    "predictor": save_predictor,
    "latency predictor": save_latency_predictor,
    "ONNX": export_network,
}
every_writer = pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)


@every_writer
def test_a_link_stays_and_its_target_is_replaced(write: Callable[[Path], object], tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    target, link, plain = tmp_path / "elsewhere" / "target", tmp_path / "link", tmp_path / "plain"
    target.write_bytes(b"old")
    link.symlink_to(Path("elsewhere") / "target")
    inode = target.stat().st_ino
    write(link)
    write(plain)
    assert link.is_symlink()
    assert target.read_bytes() == plain.read_bytes()
    assert target.stat().st_ino != inode  # replaced as a whole
    assert [path.name for path in target.parent.iterdir()] == ["target"]


@every_writer
def test_a_pipe_and_a_device_are_written_to(write: Callable[[Path], object], tmp_path: Path) -> None:
    pipe, null, plain = tmp_path / "pipe", tmp_path / "null", tmp_path / "plain"
    os.mkfifo(pipe)
    null.symlink_to("/dev/null")
    received: list[bytes] = []
    reader = threading.Thread(target=lambda: received.append(pipe.read_bytes()))
    reader.start()
    with bounded():
        write(pipe)
        reader.join()
        write(null)
    write(plain)
    assert received == [plain.read_bytes()]
    assert pipe.is_fifo()
    assert null.is_symlink()
    assert Path("/dev/null").is_char_device()
    assert {path.name for path in tmp_path.iterdir()} == {"pipe", "null", "plain"}


@every_writer
def test_folders_and_sockets_are_refused(write: Callable[[Path], object], tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"cannot write .*: it is a folder; give the name of a file in it"):
        write(tmp_path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(tmp_path / "socket"))  # an absolute path may be too long
        with pytest.raises(StoreError, match=r"socket: it is a socket or a block device; give another path"):
            write(tmp_path / "socket")
        assert (tmp_path / "socket").is_socket()


def test_a_link_to_nothing_gets_its_target(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    write_output(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_bytes() == b"new"


def test_links_in_a_circle_and_full_devices_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(StoreError, match=r"cannot write .*/a: Too many levels of symbolic links"):
        write_output(tmp_path / "a", b"new")
    assert (tmp_path / "a").is_symlink()
    (tmp_path / "full").symlink_to("/dev/full")
    with pytest.raises(StoreError, match=r"cannot write .*/full: No space left on device"):
        write_output(tmp_path / "full", b"new")


def test_a_pipe_that_is_closed_is_an_error_of_one_line(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = threading.Thread(target=lambda: (tmp_path / "pipe").open("rb").close())
    reader.start()
    with bounded(), pytest.raises(StoreError, match=r"cannot write .*/pipe: Broken pipe"):
        write_output(tmp_path / "pipe", b"new" * 1_000_000)
    reader.join()


def test_standard_output_holds_the_file_alone(tmp_path: Path) -> None:
    """The summary of the command goes to standard error then."""
    output = tmp_path / "output"
    output.symlink_to("/dev/stdout")
    command = [sys.executable, "-m", "hwnas", "table", "export", TABLE, "-o", output]
    write_ofa(LatencyTable.load(TABLE), tmp_path / "plain")
    piped = subprocess.run([*command, "--json"], capture_output=True, check=True)
    assert piped.stdout == (tmp_path / "plain").read_bytes()
    assert json.loads(piped.stderr)["operators"] > 0
    with (tmp_path / "appended").open("ab") as file:
        file.write(b"# before\n")
        file.flush()
        subprocess.run(command, stdout=file, stderr=subprocess.DEVNULL, check=True)
    assert (tmp_path / "appended").read_bytes() == b"# before\n" + piped.stdout


def test_a_run_does_not_write_outside_its_folder_through_a_link(
    tmp_path: Path, hwnas_command: Command
) -> None:
    """A stranger may have made the folder, so links in it are replaced and not followed."""
    run = Path(shutil.copytree(FIXTURES / "schema-3", tmp_path / "run"))
    mine = tmp_path / "mine"
    mine.write_bytes((run / "latency_table.json").read_bytes())
    (run / "latency_table.json").unlink()
    (run / "latency_table.json").symlink_to(mine)
    before = mine.read_bytes()
    options = ("--run-dir", run, "--restart", "profile", "--set", f"latency.table={TABLE}")
    code, _, err = hwnas_command("profile", run / "config.yaml", *options)
    assert code == 0, err
    assert mine.read_bytes() == before
    assert not (run / "latency_table.json").is_symlink()
    assert json.loads((run / "latency_table.json").read_text())["operators"]
