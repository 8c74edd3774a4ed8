from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from hwnas.errors import DeviceError
from hwnas.latency import runner
from hwnas.latency.devices import get_device
from hwnas.latency.devices.ssh import Connection, LostError, SshDevice, _split_reason
from hwnas.latency.jobs import make_job
from hwnas.latency.measure import Plan
from hwnas.testing.devices import conv
from tests.latency.devices.board import Board, running_board

SMALL = conv(4, 4)
LARGE = conv(64, 64)
PLAN = Plan(((0,), (1, 0, 1), (0,), (1,)) * 40, warmup_runs=3, kept_runs=7)
PLAN_OF_ONE = Plan(((0,), (0,)))


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    with (
        pytest.MonkeyPatch.context() as patch,
        running_board(tmp_path_factory.mktemp("board"), patch) as found,
    ):
        yield found


@pytest.fixture
def board(running: Board) -> Board:
    """The board, without jobs and pieces of other tests."""
    for name in ("jobs", "pieces"):
        shutil.rmtree(running.cache / name, ignore_errors=True)
    return running


def command(board: Board, name: str, script: str) -> Path:
    """A program on the board in place of its Python."""
    path = board.folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def jobs(board: Board) -> list[Path]:
    return sorted((board.cache / "jobs").iterdir())


def records(board: Board) -> list[dict]:
    (job,) = jobs(board)
    whole = (job / "samples.jsonl").read_text().rpartition("\n")[0]
    return [json.loads(line) for line in whole.splitlines()]


@pytest.fixture(scope="module")
def device(running: Board) -> SshDevice:
    """The board as a device that knows its identity already."""
    found = SshDevice(running.address())
    assert found.identity.runtime["name"] == "onnxruntime"
    return found


# Added to the runner: a visit waits until it is permitted, and a file says when a client is gone.
GATE = """
FLUSH_S = -1.0  # write every record at once
_timed_visit, _follow, _visits = timed_visit, follow, 0

def timed_visit(*arguments):
    global _visits
    _visits += 1
    while os.path.getsize({permits!r}) < _visits:
        time.sleep(0.01)
    return _timed_visit(*arguments)

def follow(*arguments):
    try:
        return _follow(*arguments)
    finally:
        Path({gone!r}).touch()
"""


class Gate:
    """Lets the board measure so many visits, however fast it is."""

    def __init__(self, folder: Path) -> None:
        self.permits, self.gone = folder / "permits", folder / "gone"

    def permit(self, visits: int) -> None:
        with self.permits.open("ab") as file:  # a byte a visit
            file.write(bytes(visits))

    def wait_for_the_client_to_go(self) -> None:
        """Wait until the board has noticed that its client is gone."""
        while not self.gone.exists():
            time.sleep(0.01)


@pytest.fixture
def gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gate:
    """A gate in the runner that is sent to the board; no visit is permitted yet."""
    found = Gate(tmp_path)
    found.permit(0)
    source = Path(runner.__file__).read_text()
    gated = tmp_path / "runner.py"
    gated.write_text(source + GATE.format(permits=str(found.permits), gone=str(found.gone)))
    monkeypatch.setattr(runner, "__file__", str(gated))
    return found


# ---- addresses ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        "-oProxyCommand=touch${IFS}x", "user@-oProxyCommand=x", "-l@host", "a;b", "$(x)", "`x`", "a b", "a|b",
        "a@b@c", "host:0", "host:99999", "host:22;x", "host:-1", "host/usr/bin/py;x", "host/$(x)", "host/a b",
        "host/'x'", "host//x", "host?x", "", "user@", "@host", "user:secret@host", "host\n", "hôst", "[::1",
        "a\\b",
    ],
)  # fmt: skip
def test_hostile_addresses_are_refused(address):
    with pytest.raises(DeviceError, match="is not of the form ssh://user@host:port"):
        get_device(f"ssh://{address}")


@pytest.mark.parametrize(
    ("address", "destination", "port", "python"),
    [
        ("board", "board", None, "python3"),
        ("board/", "board", None, "python3"),
        ("pi@192.168.1.7:2222", "pi@192.168.1.7", "2222", "python3"),
        ("pi@[fe80::1]:22", "pi@fe80::1", "22", "python3"),
        ("pi@board/~/hwnas/bin/python", "pi@board", None, "~/hwnas/bin/python"),
        ("my-board.local/usr/bin/python3.8", "my-board.local", None, "/usr/bin/python3.8"),
    ],
)
def test_the_command_is_fixed_but_for_what_was_checked(address, destination, port, python):
    arguments = SshDevice(address)._arguments
    assert arguments[arguments.index("--") + 1 : -1] == [destination]
    assert ("-p" in arguments) == (port is not None)
    assert port is None or arguments[arguments.index("-p") + 1] == port
    assert arguments[-1].startswith(f"exec {python} -u -c '")
    assert arguments[-1].count("'") == 2
    assert "BatchMode=yes" in arguments


def test_a_name_without_an_address_says_so():
    with pytest.raises(DeviceError, match="needs an address"):
        get_device("ssh")
    with pytest.raises(DeviceError, match="unknown device 'telnet://x'"):
        get_device("telnet://x")


# ---- what can be missing ------------------------------------------------------------------------


def test_what_stands_in_the_way_is_named(board):
    def identity(python):
        return SshDevice(board.address(python)).identity

    with pytest.raises(DeviceError, match=r"has no such Python.*install python3, numpy and onnxruntime"):
        identity(board.folder / "no-python")
    bare = command(board, "bare", f'exec {sys.executable} -I -S "$@"')
    with pytest.raises(DeviceError, match=r"cannot import numpy.*pip install numpy onnxruntime"):
        identity(bare)
    with pytest.raises(DeviceError, match=r"answered 'what\?'.*not the runner's"):
        identity(command(board, "garbage", "echo '{\"hwnas\":1}'; echo 'what?'; sleep 20"))
    with pytest.raises(DeviceError, match=r"the runner failed: dear; it also printed: oh\[2J$"):
        identity(command(board, "failing", "echo 'oh\033[2J' >&2; echo dear >&2; exit 3"))
    with pytest.raises(DeviceError, match="prints without end"):
        identity(command(board, "chatty", "yes"))


def test_what_a_login_prints_is_skipped(board, device):
    chatty = command(board, "welcome", f'echo "Welcome to the board"; exec {sys.executable} "$@"')
    assert SshDevice(board.address(chatty)).identity == device.identity


@pytest.mark.parametrize(
    "greeting",
    [
        r"printf '\033]0;my board\007'",
        r"printf 'Welcome to the board> '",
        r"printf 'Welcome\r\n\nto {\"hwnas\":'",
        r"printf '\377\376'; yes 0123456789 | head -c 500000",
    ],
)
def test_a_login_may_print_without_a_newline(board, greeting):
    answer = """printf '{"hwnas":1}\\n{"identity":{}}\\n'; exec cat"""
    chatty = command(board, "unended", f"{greeting}; {answer}")
    with SshDevice(board.address(chatty))._connect() as connection:
        assert connection.answer("identity") == {}


def test_a_login_shell_that_prints_a_title(tmp_path, monkeypatch, device):
    """The file that the login shell reads at the start is that of a real account."""
    bash = shutil.which("bash")
    if bash is None or not pwd.getpwuid(os.getuid()).pw_shell.endswith("/bash"):
        pytest.skip("the login shell of this user is not bash")
    (tmp_path / ".bashrc").write_text("printf '\\033]0;board\\007Hello '; touch ~/read\n")
    with running_board(tmp_path, monkeypatch, f"SetEnv HOME={tmp_path}") as board:
        identity = SshDevice(board.address()).identity
    if not (tmp_path / "read").exists():
        pytest.skip("this bash does not read .bashrc under sshd")
    assert identity == device.identity


def test_what_a_silent_shell_printed_is_quoted(tmp_path, monkeypatch):
    monkeypatch.setattr("hwnas.latency.devices.ssh.SILENCE_S", 0.1)
    script = f"printf 'Choose 1 or 2: '; touch {tmp_path}/printed; exec sleep 20"
    with subprocess.Popen(["sh", "-c", script], stdout=subprocess.PIPE, bufsize=0) as process:
        while not (tmp_path / "printed").exists():
            time.sleep(0.01)
        with open(tmp_path / "errors", "wb+") as errors, pytest.raises(LostError, match="no sign") as caught:
            Connection(process, errors, "board").greet()
        process.kill()
    assert caught.value.printed == "Choose 1 or 2:"


def test_what_a_shell_without_commands_printed_is_the_reason(board):
    closed = command(board, "closed", "echo 'This account is not available.'; exit 1")
    with pytest.raises(DeviceError, match=r"the runner failed: This account is not available\.$"):
        SshDevice(board.address(closed)).identity  # noqa: B018


BANNER = "*****\nPermission denied to strangers.\n\nAsk the \033[1moperator\033[0m for a key.\n*****\n"


def test_a_banner_does_not_hide_why_a_login_is_refused(tmp_path, monkeypatch):
    (tmp_path / "banner").write_text(BANNER * 50)
    refusing = f"Banner {tmp_path}/banner\nAuthorizedKeysFile none"
    with running_board(tmp_path, monkeypatch, refusing) as board:
        refused = r"^cannot connect: \S+: [^;]*Permission denied \([^;]*\)\.; .* without a password: ssh "
        banner = r".*; it also printed: .*Ask the \S+operator\S+ for a key\.; \*\*\*\*\*$"
        with pytest.raises(DeviceError, match=refused + banner):
            SshDevice(board.address()).identity  # noqa: B018
        (tmp_path / "known").write_text("")
        with pytest.raises(DeviceError, match=r"^cannot connect: \S+: Host key verification failed\.; hwnas"):
            SshDevice(board.address()).identity  # noqa: B018


def test_a_banner_does_not_hide_why_the_runner_does_not_start(tmp_path, monkeypatch):
    (tmp_path / "banner").write_text(BANNER)
    with running_board(tmp_path, monkeypatch, f"Banner {tmp_path}/banner") as board:
        missing = (
            r"has no such Python: [^;]*/no-python[^;]*; install .*; it also printed: \*\*\*\*\*; Permission"
        )
        with pytest.raises(DeviceError, match=missing):
            SshDevice(board.address(tmp_path / "no-python")).identity  # noqa: B018


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (["Welcome", "me@board: Permission denied (publickey)."], "me@board: Permission denied (publickey)."),
        (
            ["Received disconnect: Too many authentication failures", "Disconnected from 10.0.0.7 port 22"],
            "Received disconnect: Too many authentication failures",
        ),
        (["Connection reset by peer", "-----", ""], "Connection reset by peer"),
        (["*****"], ""),
        ([], ""),
    ],
)
def test_the_reason_is_the_last_line_that_can_be_one(lines, reason):
    found, others = _split_reason(lines)
    assert found == reason
    assert others == "; ".join(line for line in lines if line != reason)


def test_ssh_speaks_for_itself_when_it_cannot_connect(board):
    with pytest.raises(DeviceError, match=r"Connection refused; try it by hand: ssh -p 9 -- nobody@127"):
        SshDevice("nobody@127.0.0.1:9").identity  # noqa: B018
    known = board.folder / "known"
    keys = known.read_text()
    known.write_text("")
    try:
        with pytest.raises(DeviceError, match=r"Host key verification failed.*without a password: ssh -p"):
            SshDevice(board.address()).identity  # noqa: B018
    finally:
        known.write_text(keys)


def test_no_ssh_command(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DeviceError, match="install the OpenSSH client"):
        SshDevice("board").identity  # noqa: B018


def test_a_board_that_falls_silent_is_given_up(board, monkeypatch):
    monkeypatch.setattr("hwnas.latency.devices.ssh.SILENCE_S", 0.5)
    silent = command(board, "silent", "sleep 20")
    with pytest.raises(DeviceError, match="no sign of life"):
        SshDevice(board.address(silent)).identity  # noqa: B018


def test_a_disk_that_takes_no_more_is_reported(board):
    """Writing fails as it does on a full disk, where the shell allows files of 16 KiB."""
    full = command(board, "full", f'ulimit -f 32; exec {sys.executable} "$@"')
    with pytest.raises(DeviceError, match=r"cannot write to .* MiB free .*; make room there"):
        SshDevice(board.address(full)).measure([LARGE], Plan(((0,),)))
    with pytest.raises(DeviceError, match=r"cannot write to .* MiB free .*; make room there"):
        SshDevice(board.address(full)).measure([SMALL], Plan(((0,),) * 1000))


# sitecustomize.py of a Python that may not open a file
HIDING = """
import io
from pathlib import Path
real = io.open
def hiding(file, *arguments, **options):
    if Path(str(file)).match({pattern!r}):
        raise OSError({number}, {text!r}, str(file))
    return real(file, *arguments, **options)
io.open = hiding
"""


def hiding(board: Board, name: str, pattern: str, number: int) -> Path:
    """A Python on the board that gets an error, by its number, for the files that match a pattern."""
    folder = board.folder / f"{name}-site"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        HIDING.format(pattern=pattern, number=number, text=os.strerror(number))
    )
    return command(board, name, f'PYTHONPATH={folder} exec {sys.executable} "$@"')


def test_a_board_that_hides_its_load_measures(board):
    python = hiding(board, "hardened", "/proc/stat", errno.EACCES)
    samples = SshDevice(board.address(python)).measure([SMALL], Plan(((0,), (0,))))
    assert samples.time_ns.shape == (2, 5)


def test_a_file_that_cannot_be_read_is_not_called_a_full_disk(board):
    python = hiding(board, "unreadable", "*/hwnas/pieces/*", errno.EIO)
    with pytest.raises(DeviceError, match="Input/output error") as caught:
        SshDevice(board.address(python)).measure([SMALL], Plan(((0,), (0,))))
    assert "make room" not in str(caught.value)


def test_a_board_without_a_home_folder_uses_a_temporary_one(tmp_path, monkeypatch, caplog):
    (tmp_path / "temporary").mkdir()
    config = f"SetEnv HOME=/dev/null TMPDIR={tmp_path}/temporary"
    with running_board(tmp_path, monkeypatch, config) as board:
        homeless = SshDevice(board.address())
        samples = homeless.measure([SMALL], Plan(((0,),) * 3))
    assert len(samples.model) == 3
    folder = tmp_path / "temporary" / f"hwnas-{os.getuid()}"
    assert list((folder / "pieces").iterdir())
    (warning,) = caplog.messages
    assert warning.endswith(
        f": /dev/null/.cache/hwnas cannot be written; {folder} is used (set XDG_CACHE_HOME to choose another "
        "folder)"
    )


def test_a_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "cache" / "hwnas" / "lock").mkdir(parents=True)
    with (
        running_board(tmp_path, monkeypatch) as board,
        pytest.raises(DeviceError, match=r"cannot write to \S+ \(.*Is a directory.*; delete it, or set XDG_"),
    ):
        SshDevice(board.address()).measure([SMALL], Plan(((0,),)))


# ---- interruptions ------------------------------------------------------------------------------


def test_a_connection_that_is_cut_again_and_again_changes_nothing(board, device, gate):
    """The first connections are cut as soon as they give something; one process has measured it all."""
    pids, cut = set(), []
    gate.permit(10)

    def progress(done, total, text=""):
        pids.add((board.cache / "lock").read_text())
        if len(cut) < 2 and board.clients[-1] not in cut:
            cut.append(board.clients[-1])
            os.kill(cut[-1], signal.SIGKILL)
            gate.permit(10 if len(cut) < 2 else len(PLAN.visits))

    samples = device.measure([SMALL, LARGE], PLAN, progress)
    assert len(cut) == 2
    assert len(pids) == 1
    assert samples.model.tolist() == [model for visit in PLAN.visits for model in visit]
    assert (samples.time_ns > 0).all()
    assert not jobs(board)


@pytest.mark.parametrize("how", ["killed", "abandoned"])
def test_a_measurement_that_ended_early_goes_on_where_it_was(board, device, gate, how):
    """The one that asked and the one that measured are gone; another one asks for the same."""

    class Gone(Exception):
        pass

    def leave(done, total, text=""):
        if text.startswith("timing"):
            raise Gone

    models = [SMALL, LARGE]
    gate.permit(10)
    with pytest.raises(Gone):
        device.measure(models, PLAN, leave)
    gate.wait_for_the_client_to_go()
    worker = int((board.cache / "lock").read_text())
    if how == "killed":
        os.kill(worker, signal.SIGKILL)
        with open(jobs(board)[0] / "samples.jsonl", "a") as file:
            file.write('{"seconds": 1, "ro')  # half a record
    else:
        os.utime(jobs(board)[0] / "lease", (1, 1))
    gate.permit(len(PLAN.visits))
    with open(board.cache / "lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # waits for the process to end
    before = records(board)
    assert 2 < len(before) < 2 + len(PLAN.visits)
    samples = device.measure(models, PLAN)
    assert int((board.cache / "lock").read_text()) != worker
    kept = [row for record in before[2:] for row in record["rows"]]
    np.testing.assert_array_equal(samples.time_ns[: len(kept)], np.array(kept)[:, :, 0])
    assert samples.cold_ns.tolist() == [record["cold_ns"] for record in before[:2]]
    assert samples.model.tolist() == [model for visit in PLAN.visits for model in visit]


def test_a_process_that_the_board_kills_is_reported(board, device):
    def kill(done, total, text=""):
        os.kill(int((board.cache / "lock").read_text()), signal.SIGKILL)

    with pytest.raises(DeviceError, match="was killed; if memory ran out there, time smaller models"):
        device.measure([SMALL, LARGE], PLAN, kill)


def test_one_measures_and_the_other_waits_and_says_for_whom(board, device, caplog):
    board.cache.mkdir(parents=True, exist_ok=True)
    with open(board.cache / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write("4242\n")
        lock.flush()

        class Release(logging.Handler):
            def emit(self, record):
                fcntl.flock(lock, fcntl.LOCK_UN)

        logger, handler = logging.getLogger("hwnas.latency.devices.ssh"), Release()
        logger.addHandler(handler)
        try:
            samples = device.measure([SMALL], Plan(((0,),) * 3))
        finally:
            logger.removeHandler(handler)
    assert len(samples.model) == 3
    assert "waiting for process 4242" in caplog.text


def test_an_error_is_not_kept(board, device):
    for _ in range(2):
        with pytest.raises(DeviceError, match="cannot load a model"):
            device.measure([b"no model"], Plan(((0,),)))
    assert not jobs(board)


def test_a_finished_measurement_is_forgotten_and_its_weights_are_kept(board, device):
    models, pieces = [conv(64, 4)], board.cache / "pieces"
    one = device.measure(models, Plan(((0,),) * 20))
    an_hour_ago, kept = time.time() - 3600, sorted(pieces.iterdir())
    for piece in kept:
        os.utime(piece, (an_hour_ago, an_hour_ago))
    two = device.measure(models, Plan(((0,),) * 20))
    assert not np.array_equal(one.time_ns, two.time_ns)
    assert not jobs(board)
    assert sorted(pieces.iterdir()) == kept != []
    assert all(piece.stat().st_mtime > an_hour_ago + 1 for piece in kept)  # used again


def test_what_is_old_is_deleted(board, device):
    (board.cache / "pieces").mkdir(parents=True, exist_ok=True)
    (board.cache / "jobs" / "old").mkdir(parents=True)
    piece = board.cache / "pieces" / ("0" * 64)
    piece.touch()
    (board.cache / "jobs" / "old" / "lease").touch()
    for path in (piece, board.cache / "jobs" / "old" / "lease"):
        os.utime(path, (1, 1))
    device.measure([SMALL], Plan(((0,),)))
    assert not piece.exists()
    assert not jobs(board)


# ---- cores --------------------------------------------------------------------------------------


def test_a_board_measures_on_the_chosen_cores_and_on_those_of_earlier_passes(board):
    core = max(os.sched_getaffinity(0))
    chosen = SshDevice(board.address(), cores=(core,))
    assert chosen.measure([SMALL], Plan(((0,),))).cores == (core,)
    assert SshDevice(board.address()).measure([SMALL], Plan(((0,),), cores=(core,))).cores == (core,)
    with pytest.raises(DeviceError, match=r"cores are 4000, but this process may use"):
        SshDevice(board.address(), cores=(4000,)).identity  # noqa: B018


def test_a_measurement_whose_cores_are_gone_says_to_start_again(board, device):
    """The measurement began on a core that the board does not have any more."""
    job, _ = make_job([SMALL], PLAN_OF_ONE, 1)
    job["on"] = device.identity.__dict__
    folder = board.cache / "jobs" / runner.job_id(job)
    folder.mkdir(parents=True)
    (folder / "samples.jsonl").write_text('{"seconds":0.1,"cold_ns":30,"cores":[4000]}\n')
    (folder / "lease").touch()
    with pytest.raises(
        DeviceError, match=r"began on cores 4000, which are no longer available; start it again"
    ):
        device.measure([SMALL], PLAN_OF_ONE)
    samples = device.measure([SMALL], PLAN_OF_ONE)
    assert samples.cores in [(core,) for core in os.sched_getaffinity(0)]
