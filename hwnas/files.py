"""What a path names, before it is opened."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def check_regular(path: str | Path) -> None:
    """OSError for a path that names no file (or folder): one would wait at a named pipe for ever."""
    mode = os.stat(path).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise OSError("it is a pipe, a socket or a device, not a file")
