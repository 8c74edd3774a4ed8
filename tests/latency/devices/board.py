"""A board for tests: a real sshd on loopback with keys of its own, and an ssh command that reaches it."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

SSHD = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")
REASON = "there is no sshd on this machine; install openssh-server"


@dataclass
class Board:
    """Where the board is, and what it keeps."""

    port: int
    folder: Path

    def address(self, python: str | Path = sys.executable) -> str:
        return f"{getpass.getuser()}@127.0.0.1:{self.port}{python}"

    @property
    def cache(self) -> Path:
        return self.folder / "cache" / "hwnas"

    @property
    def clients(self) -> list[int]:
        """Process ids of the ssh commands so far."""
        return [int(line) for line in (self.folder / "clients").read_text().split()]


@contextmanager
def running_board(folder: Path, monkeypatch: pytest.MonkeyPatch, config: str = "") -> Iterator[Board]:
    """A board that runs; in $PATH an ssh that knows its key and writes its process id to `clients`.

    `config` precedes the configuration of sshd, which uses the first value of a keyword.
    """
    ssh = shutil.which("ssh")
    if SSHD is None or ssh is None:
        pytest.skip(REASON)
    for name in ("host", "user"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(command, check=True)
    folder.chmod(0o700)
    shutil.copy(folder / "user.pub", folder / "authorized")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (folder / "sshd_config").write_text(
        f"{config}\nListenAddress 127.0.0.1:{port}\nHostKey {folder}/host\n"
        f"AuthorizedKeysFile {folder}/authorized\n"
        f"PidFile {folder}/sshd.pid\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n"
        f"PermitRootLogin prohibit-password\nAllowTcpForwarding no\nMaxStartups 100\n"
        f"SetEnv XDG_CACHE_HOME={folder}/cache\n"
    )
    key = (folder / "host.pub").read_text()
    (folder / "known").write_text(f"[127.0.0.1]:{port} {key}")
    (folder / "ssh_config").write_text(
        f"IdentityFile {folder}/user\nIdentitiesOnly yes\nUserKnownHostsFile {folder}/known\n"
        "StrictHostKeyChecking yes\n"
    )
    commands = folder / "bin"
    commands.mkdir()
    (commands / "ssh").write_text(
        f'#!/bin/sh\necho $$ >> {folder}/clients\nexec {ssh} -F {folder}/ssh_config "$@"\n'
    )
    (commands / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", str(commands), prepend=os.pathsep)
    monkeypatch.setattr("hwnas.latency.devices.ssh.SILENCE_S", 600.0)  # a busy machine answers late
    with open(folder / "sshd.log", "w") as log:
        server = subprocess.Popen([SSHD, "-D", "-e", "-f", str(folder / "sshd_config")], stderr=log)
        try:
            while True:
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                if server.poll() is not None:
                    pytest.skip(f"sshd does not start: {(folder / 'sshd.log').read_text().strip()}")
                time.sleep(0.05)
            yield Board(port, folder)
        finally:
            server.terminate()
            server.wait()
