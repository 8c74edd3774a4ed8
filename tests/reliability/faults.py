"""A layer under all that hwnas writes: it names every step of writing before and after it is taken.

`hwnas.store` is the one module that writes artefacts; SQLite's writes are seen through the system calls of
its own test interface (`xSetSystemCall`, https://www.sqlite.org/c3ref/vfs.html), where Python's SQLite is a
shared library. What is told of the steps may kill the process, raise OSError, or take notes.
"""

from __future__ import annotations

import ctypes
import errno
import io
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import hwnas.store

Told = Callable[[str, str], None]  # the step, and the file or folder that it is of

STEPS = ("makedirs", "mkstemp", "fchmod", "fsync", "replace")  # of os and tempfile; and write


def path_of(descriptor: int) -> str:
    return os.readlink(f"/proc/self/fd/{descriptor}")


class _File(io.FileIO):
    """A file that is told of, and written in two halves."""

    told: Told

    def write(self, data: Any) -> int:
        whole, path = memoryview(data).cast("B"), path_of(self.fileno())
        self.told("write", path)
        half = len(whole) // 2
        done = super().write(whole[:half]) if half else 0
        self.told("in the middle of write", path)
        done += super().write(whole[half:])
        self.told("after write", path)
        return done


class _System:
    """Stands for the modules os and tempfile in hwnas.store."""

    def __init__(self, module: Any, told: Told) -> None:
        self._module, self._told = module, told

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._module, name)
        if name == "fdopen":
            return self._opened
        if name not in STEPS:
            return real

        def told(*arguments: Any, **named: Any) -> Any:
            first = arguments[0]
            if name == "mkstemp":
                path = f"{arguments[2]}/{arguments[1]}*{arguments[0]}"
            else:
                path = path_of(first) if isinstance(first, int) else str(first)
            self._told(name, path)
            found = real(*arguments, **named)
            self._told(f"after {name}", path)
            return found

        return told

    def _opened(self, descriptor: int, mode: str) -> Any:
        file = _File(descriptor, mode)
        file.told = self._told
        return file


@contextmanager
def layer(told: Told) -> Iterator[None]:
    """Tell of every step of writing; where `told` raises OSError, the step fails."""
    hwnas.store.os, hwnas.store.tempfile = _System(os, told), _System(tempfile, told)
    try:
        with _sqlite(told):
            yield
    finally:
        hwnas.store.os, hwnas.store.tempfile = os, tempfile


# ---- SQLite --------------------------------------------------------------------------------------


class _Vfs(ctypes.Structure):
    """sqlite3_vfs of sqlite3.h."""


_Set = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(_Vfs), ctypes.c_char_p, ctypes.c_void_p)
_Get = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.POINTER(_Vfs), ctypes.c_char_p)
_Write = ctypes.CFUNCTYPE(
    ctypes.c_ssize_t, ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64, use_errno=True
)
_Vfs._fields_ = [
    ("version", ctypes.c_int),
    ("size", ctypes.c_int),
    ("longest_path", ctypes.c_int),
    ("next", ctypes.c_void_p),
    ("name", ctypes.c_char_p),
    ("data", ctypes.c_void_p),
    *[(f"method{i}", ctypes.c_void_p) for i in range(13)],  # xOpen to xCurrentTimeInt64
    ("set_system_call", _Set),
    ("get_system_call", _Get),
]


def _library() -> ctypes.CDLL | None:
    """The SQLite that Python uses, if it is a shared library."""
    with open("/proc/self/maps") as maps:
        found = {line.split()[-1] for line in maps if "libsqlite3.so" in line}
    return ctypes.CDLL(found.pop()) if found else None


SEES_SQLITE = _library() is not None


@contextmanager
def _sqlite(told: Told) -> Iterator[None]:
    library = _library()
    if library is None:
        yield
        return
    library.sqlite3_vfs_find.restype = ctypes.POINTER(_Vfs)
    vfs = library.sqlite3_vfs_find(None)

    def write(descriptor: int, start: int, size: int, offset: int) -> int:
        path, data, half = path_of(descriptor), ctypes.string_at(start, size), size // 2
        try:
            told("write", path)
            os.pwrite(descriptor, data[:half], offset)
            told("in the middle of write", path)
            os.pwrite(descriptor, data[half:], offset + half)
            told("after write", path)
        except OSError as error:
            ctypes.set_errno(error.errno or errno.EIO)
            return -1
        return size

    callback = _Write(write)
    calls = [n for n in (b"pwrite", b"pwrite64") if vfs.contents.get_system_call(vfs, n)]
    for name in calls:
        vfs.contents.set_system_call(vfs, name, ctypes.cast(callback, ctypes.c_void_p))
    try:
        yield
    finally:
        for name in calls:
            vfs.contents.set_system_call(vfs, name, None)
