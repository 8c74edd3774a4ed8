"""A board that is reached over the user's own OpenSSH, with the settings and keys of their ~/.ssh/config.

The board needs Python >= 3.8, numpy and onnxruntime; hwnas/latency/runner.py is sent to it each time, and
says what it leaves there. No port is opened. Measuring does not depend on the connection: when that is lost
it is made again, and only records that are missing are fetched.
"""

from __future__ import annotations

import json
import logging
import os
import re
import select
import shlex
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import IO, Any

from hwnas.errors import DeviceError
from hwnas.latency import runner
from hwnas.latency.jobs import identity_of, make_job, samples_of
from hwnas.latency.measure import Identity, Plan, Samples
from hwnas.progress import Progress, silent

ADDRESS = re.compile(
    r"((?P<user>[A-Za-z0-9_][A-Za-z0-9._-]*)@)?"
    r"(?P<host>[A-Za-z0-9][A-Za-z0-9._-]*|\[[0-9A-Fa-f:.]+\])"
    r"(:(?P<port>[1-9][0-9]{0,4}))?"
    r"/?(?P<python>(?<=/)(~/)?[A-Za-z0-9_.+-][A-Za-z0-9_./+-]*)?",
)
OPTIONS = (
    "-T", "-a", "-x",
    "-o", "BatchMode=yes",
    "-o", "ConnectTimeout=10",
    "-o", "ServerAliveInterval=5",
    "-o", "ServerAliveCountMax=3",
    "-o", "ClearAllForwardings=yes",
)  # fmt: skip
BOOTSTRAP = (
    "import sys;sys.version_info<(3,8)and sys.exit(\"Python is older than 3.8\");"
    "s=sys.stdin.buffer.read(int(sys.stdin.buffer.readline()));"
    "g={\"__name__\":\"runner\"};exec(compile(s,\"runner.py\",\"exec\"),g);g[\"serve\"]()"
)  # fmt: skip
NO_REASON = re.compile(r"\W*$|Disconnected from |Connection to .* closed")
SILENCE_S = 30.0  # without a sign of life a connection counts as lost
ATTEMPTS = 5  # to connect again, in a row without a record
MAX_NOISE = 1 << 20  # bytes that a login may print before the runner speaks
MAX_LINE = 64 << 20

log = logging.getLogger(__name__)


class LostError(Exception):
    """The connection was lost or not made; `printed` is the other output of the login."""

    def __init__(self, reason: str, printed: str = "") -> None:
        super().__init__(reason)
        self.printed = printed


class SshDevice:
    """Times models with ONNX Runtime on another machine; see the module."""

    def __init__(self, address: str, threads: int = 1, cores: Sequence[int] | None = None) -> None:
        """`address` is ``[user@]host[:port][/python]``, where python is a path on the board.

        The path is absolute, or from the home folder as in ``pi@board/~/venv/bin/python``; without one it is
        the board's ``python3``. Nothing is connected before it is needed. `cores` are numbers of the
        board's cores that may be used, by default those of the highest capacity. DeviceError for a wrong
        address.
        """
        found = ADDRESS.fullmatch(address)
        if found is None or int(found["port"] or 1) > 65535:
            raise DeviceError(
                f"ssh address {address!r} is not of the form ssh://user@host:port or "
                "ssh://user@host:port/path/to/python, with a port of 1 to 65535; for anything else give the "
                "host a name in ~/.ssh/config"
            )
        if threads < 1:
            raise DeviceError(f"threads is {threads}; give at least 1")
        self.address, self.threads, self.cores = address, threads, cores
        python = found["python"] or "python3"
        if found["python"] and not python.startswith("~/"):
            python = f"/{python}"
        host = found["host"].strip("[]")
        self._destination = f"{found['user']}@{host}" if found["user"] else host
        self._arguments = [
            "ssh", *OPTIONS, *(["-p", found["port"]] if found["port"] else []), "--", self._destination,
            f"exec {python} -u -c '{BOOTSTRAP}'",
        ]  # fmt: skip

    @cached_property
    def identity(self) -> Identity:
        """The board and its runtime. DeviceError if it cannot be reached or lacks something."""
        try:
            with self._connect() as connection:
                connection.send({"ask": "identity", "threads": self.threads, "cores": self.cores})
                return identity_of(connection.answer("identity"))
        except LostError as error:
            hint = self._hint(str(error))
            raise DeviceError(f"cannot connect: {error}{hint}{_also(error.printed)}") from None

    def measure(self, models: Sequence[bytes], plan: Plan, progress: Progress = silent) -> Samples:
        """As every device does. What was interrupted, even by killing hwnas, is gone on with."""
        job, pieces = make_job(models, plan, self.threads, self.cores)
        job["on"] = self.identity.__dict__
        records: list[dict[str, Any]] = []
        attempts = 0
        while True:
            before = len(records)
            try:
                self._fetch(job, pieces, records, progress)
                return samples_of(records, len(models), job["visits"], plan.kept_runs)
            except LostError as error:
                attempts = 0 if len(records) > before else attempts + 1
                if attempts >= ATTEMPTS:
                    raise DeviceError(
                        f"the connection was lost and {ATTEMPTS} attempts to make it again failed: {error}; "
                        "the board keeps what it has measured for a day, the same command goes on with it"
                        f"{_also(error.printed)}"
                    ) from None
                log.warning("%s; connecting again", error)
                time.sleep(2.0**attempts / 2)

    def _fetch(
        self,
        job: dict[str, Any],
        pieces: dict[str, bytes],
        records: list[dict[str, Any]],
        progress: Progress,
    ) -> None:
        """Append to the records of a job all that are not there yet; LostError at any moment."""
        models, visits = len(job["models"]), len(job["visits"])
        told: Any = None
        with self._connect() as connection:
            connection.send({"ask": "records", "job": job, "from": len(records)})
            for name in connection.answer("need"):
                if name not in pieces:
                    raise DeviceError(f"{self.address} asks for what the job does not have; measure again")
                connection.send_bytes(b"%d\n" % len(pieces[name]) + pieces[name])
            while True:
                line = connection.receive()
                if "done" in line:
                    if line["done"] != len(records):
                        raise DeviceError(f"{self.address} sent other records than it counts; measure again")
                    connection.send_bytes(b"forget\n")
                    progress(visits, visits, "timing")
                    return
                if "waiting" in line:
                    if line["waiting"] and line["waiting"] != told:
                        told = line["waiting"]
                        log.warning("waiting for process %s, which measures on %s", told, self.address)
                    continue
                records.append(line)
                done = len(records)
                if done <= models:
                    progress(done, models, "opening models")
                else:
                    progress(done - models, visits, "timing")

    @contextmanager
    def _connect(self) -> Iterator[Connection]:
        """A connection whose runner has spoken; its ssh is ended at the end, whatever happened."""
        with tempfile.TemporaryFile() as errors:
            try:
                process = subprocess.Popen(
                    self._arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, bufsize=0
                )
            except FileNotFoundError:
                raise DeviceError("there is no command ssh; install the OpenSSH client") from None
            connection = Connection(process, errors, self.address)
            try:
                source = Path(runner.__file__).read_bytes()
                connection.send_bytes(b"%d\n" % len(source) + source)
                connection.greet()
                yield connection
            except BaseException:
                connection.close(0.0)
                raise
            connection.close(5.0)

    def _hint(self, message: str) -> str:
        by_hand = shlex.join([part for part in self._arguments[:-1] if part not in OPTIONS or part == "ssh"])
        if "Host key verification failed" in message or "Permission denied" in message:
            return f"; hwnas answers no questions, so first have this succeed without a password: {by_hand}"
        return f"; try it by hand: {by_hand}"


class Connection:
    """Lines of JSON to and from a runner."""

    def __init__(self, process: subprocess.Popen[bytes], errors: IO[bytes], address: str) -> None:
        self._process, self._errors, self._address = process, errors, address
        self._buffer = bytearray()
        self._greeted = False  # until then the buffer holds what the login printed

    def send(self, line: dict[str, Any]) -> None:
        self.send_bytes(json.dumps(line, separators=(",", ":"), allow_nan=False).encode() + b"\n")

    def send_bytes(self, data: bytes) -> None:
        assert self._process.stdin is not None
        try:
            view = memoryview(data)
            while view:
                view = view[self._process.stdin.write(view) :]
        except BrokenPipeError:
            self._ended()

    def greet(self) -> None:
        """Skip what a login prints up to the greeting of the runner, which need not begin a line."""
        greeting = b'{"hwnas":%d}\n' % runner.SCHEMA
        while greeting not in self._buffer:
            if len(self._buffer) > MAX_NOISE:
                end = _shown(bytes(self._buffer[-200:]))
                raise DeviceError(f"{self._address} prints without end: {end!r}; is it a shell?")
            self._receive()
        self._buffer = self._buffer.partition(greeting)[2]
        self._greeted = True

    def receive(self) -> dict[str, Any]:
        """The next line; DeviceError for an error that it tells and for what is not JSON."""
        line = self._line()
        try:
            data = json.loads(line)
        except (ValueError, RecursionError):
            data = None
        if not isinstance(data, dict):
            raise DeviceError(
                f"{self._address} answered {_shown(line)!r}, which is not the runner's; try again"
            )
        if "error" in data:
            message = f"{self._address}: {_shown(str(data['error']).encode())}"
            model = data.get("model")
            raise DeviceError(message, model if isinstance(model, int) else None)
        return data

    def answer(self, name: str) -> Any:
        """What is called `name` in the next line."""
        line = self.receive()
        if name not in line:
            raise DeviceError(f"{self._address} answered {str(line)[:200]!r} in place of {name}; try again")
        if line.get("note"):
            log.warning("%s: %s", self._address, _shown(str(line["note"]).encode()))
        return line[name]

    def close(self, patience_s: float) -> None:
        """Say that nothing follows; ssh is killed unless it has ended after so many seconds."""
        process = self._process
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()
        try:
            process.wait(patience_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _line(self) -> bytes:
        while b"\n" not in self._buffer:
            if len(self._buffer) > MAX_LINE:
                raise DeviceError(f"{self._address} sent a line of more than {MAX_LINE >> 20} MiB; try again")
            self._receive()
        line, _, rest = self._buffer.partition(b"\n")
        self._buffer = rest
        return bytes(line)

    def _receive(self) -> None:
        """Append what comes next to the buffer."""
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        if not select.select([descriptor], [], [], SILENCE_S)[0]:
            printed = "; ".join(_lines(self._printed()))
            raise LostError(f"{self._address} gave no sign of life for {SILENCE_S:g} s", printed)
        data = os.read(descriptor, 1 << 20)
        if not data:
            self._ended()
        self._buffer += data

    def _printed(self) -> bytes:
        """Return what the login printed before the greeting, and then all of standard error."""
        self._errors.seek(0)
        return (b"" if self._greeted else bytes(self._buffer) + b"\n") + self._errors.read()

    def _ended(self) -> None:
        """LostError, or DeviceError if what ended is not the connection but what runs on the board."""
        try:
            status = self._process.wait(5.0)
        except subprocess.TimeoutExpired:
            raise LostError(f"{self._address} closed its side") from None
        reason, printed = _split_reason(_lines(self._printed()))
        reason = reason or f"status {status}"
        if status in (255, 0) or status < 0:
            raise LostError(f"{self._address}: {reason}", printed)
        if status in (126, 127):
            raise DeviceError(
                f"{self._address} has no such Python: {reason}; install python3, numpy and onnxruntime "
                f"there, or name the Python to use: ssh://user@host/~/hwnas/bin/python{_also(printed)}"
            )
        raise DeviceError(f"{self._address}: the runner failed: {reason}{_also(printed)}")


def _lines(text: bytes) -> list[str]:
    """Return the lines at the end of what another machine printed, without control characters."""
    lines = text[-2000:].decode(errors="replace").splitlines()
    shown = ("".join(c for c in line if c.isprintable()).strip() for line in lines)
    return [line for line in shown if line]


def _shown(text: bytes) -> str:
    """Return the end of what another machine printed in one line."""
    return "; ".join(_lines(text))


def _split_reason(lines: Sequence[str]) -> tuple[str, str]:
    """Return the last line that can be a reason, empty if there is none, and the other lines in one.

    A banner of the server comes before the reason; decoration and farewells may follow it.
    """
    for i in reversed(range(len(lines))):
        if not NO_REASON.match(lines[i]):
            return lines[i], "; ".join([*lines[:i], *lines[i + 1 :]])
    return "", "; ".join(lines)


def _also(printed: str) -> str:
    """Return the end of a message that quotes what else was printed."""
    return f"; it also printed: {printed}" if printed else ""
