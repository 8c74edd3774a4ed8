"""``hwnas``, ``python -m hwnas`` and ``torchrun -m hwnas``: the command, interruptible from the start."""

from __future__ import annotations

import os
import signal
from types import FrameType


def main() -> None:
    """Entry point. Ctrl-C ends with one line and exit code 130, in the seconds of the imports too."""
    signal.signal(signal.SIGINT, _interrupted)
    if os.environ.get("WORLD_SIZE", "1") != "1":
        # Read when torch is imported. Its DistributedDataParallel would warn that parameters which a step may
        # leave unused are all used in the first one.
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    from hwnas.cli import main as command

    command()


def _interrupted(number: int, frame: FrameType | None) -> None:
    """Where no display of work has a handler of its own.

    Compiled modules that are being imported turn an exception into errors of their own, so there is none. On
    the disk this leaves no more than a process that is killed does.
    """
    os.write(2, b"interrupted\n")
    os._exit(130)


if __name__ == "__main__":
    main()
