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


def standard_stream(path: str | Path) -> int | None:
    """Return the descriptor, 1 or 2, of the standard output or error that a path names (``/dev/stdout``).

    Args:
        path: The path of a file, a device or a pipe.

    Returns:
        The descriptor, or None if the path names neither of the two streams, or nothing.
    """
    for descriptor in (1, 2):
        try:
            if os.path.samestat(os.stat(path), os.fstat(descriptor)):
                return descriptor
        except OSError:  # the path names nothing, or the stream is closed
            continue
    return None
