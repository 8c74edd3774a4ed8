"""What was damaged or made up is refused in one line that names the file, or does no harm.

Each artefact is read after many random mutations: of its bytes, and of its values with a fitting seal, which
says that they were meant. HWNAS_MUTATIONS is how many; the default is for every day.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import shutil
import signal
import sqlite3
import struct
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import hwnas
from hwnas.config import load_config, parse_training
from hwnas.errors import HwnasError, StoreError
from hwnas.export.predict import Predictor
from hwnas.images import fitted
from hwnas.latency.benchmark import read_model
from hwnas.latency.table import LatencyTable
from hwnas.pipeline import load_run, read_entry
from hwnas.predictors import get_predictor, load_predictor
from hwnas.store import Measurement, Store, sealed
from hwnas.training import checkpoint
from tests.conftest import TINY

MUTATIONS = int(os.environ.get("HWNAS_MUTATIONS", "40"))
HANGS_S = 300  # A guard against hangs: the readers need milliseconds.
MEMORY = 1 << 30  # bytes that a reader may take beside what is there
VALUES: list[Any] = [None, True, -1, 0, 1e308, 1e-308, 10**400, 2**63, -0.5, "", "x" * 10_000, "NaN"]
VALUES += [[], {}, [[[[]]]], {"a": {"b": 1}}, "\x1b[31m", "../../etc/passwd"]

Mutation = Callable[[bytes, random.Random], bytes]


def flip(data: bytes, rng: random.Random) -> bytes:
    i = rng.randrange(len(data))
    return data[:i] + bytes([data[i] ^ 1 << rng.randrange(8)]) + data[i + 1 :]


def cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def blank(data: bytes, rng: random.Random) -> bytes:
    i, n = rng.randrange(len(data)), rng.randrange(1, 64)
    return data[:i] + bytes(len(data[i : i + n])) + data[i + n :]


def repeat(data: bytes, rng: random.Random) -> bytes:
    i, n = rng.randrange(len(data)), rng.randrange(1, 200)
    return data[: i + n] + data[i:]


def drop(data: bytes, rng: random.Random) -> bytes:
    i, n = rng.randrange(len(data)), rng.randrange(1, 50)
    return data[:i] + data[i + n :]


def nest(data: bytes, rng: random.Random) -> bytes:
    return b"[" * 100_000 + b"]" * 100_000


BYTES: list[Mutation] = [flip, cut, blank, repeat, drop]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all values inside plain data."""
    inside: Any = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, part in inside:
        yield (*path, key)
        yield from places(part, (*path, key))


def of_values(data: bytes, rng: random.Random) -> bytes:
    """Plain data with a value gone, another one, exchanged or added, and sealed."""
    plain = json.loads(data)
    paths = list(places(plain))

    def holder(path: tuple[Any, ...]) -> Any:
        found = plain
        for key in path[:-1]:
            found = found[key]
        return found

    one, other = rng.choice(paths), rng.choice(paths)
    match rng.randrange(4):
        case 0:
            del holder(one)[one[-1]]
        case 1:
            holder(one)[one[-1]] = rng.choice(VALUES)
        case 2:
            plain["added"] = rng.choice(VALUES)
        case _ if one[: len(other)] != other and other[: len(one)] != one:  # neither is inside the other
            values = holder(one)[one[-1]], holder(other)[other[-1]]
            holder(other)[other[-1]], holder(one)[one[-1]] = values
    return json.dumps(sealed(plain)).encode()


# ---- artefacts and how they are read -------------------------------------------------------------


def table(file: Path) -> Any:
    return LatencyTable.load(file).summary()


def supernet(file: Path) -> Any:
    return hwnas.load_supernet(file.parent).checksum


def model(file: Path) -> Any:
    return {name: tensor.tolist() for name, tensor in hwnas.load_model(file.parent).state_dict().items()}


def shipped(file: Path) -> Any:
    return Predictor(file).top(file.parent.parent / "photo.png", 3)


def any_onnx(file: Path) -> Any:
    return len(read_model(file, {})[0])


def store(file: Path) -> Any:
    with contextlib.closing(load_run(file.parent)) as run:
        return json.dumps(run.summary()), run.evaluations().to_csv()


def front(file: Path) -> Any:
    with contextlib.closing(load_run(file.parent)) as run:
        return json.dumps(run.models)


def entry(file: Path) -> Any:
    with contextlib.closing(load_run(file.parents[2])) as run:
        return json.dumps(read_entry(run, file.parent.name))


def training(file: Path) -> Any:
    net = hwnas.load_supernet(file.parent)
    settings = parse_training(TINY["training"], "the tiny experiment").model_dump(mode="json")
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    state = checkpoint.load(file, net, optimizer, {**settings, "seed": 0})
    return net.checksum, state.step, state.reports, state.losses, state.arithmetic


def image(size: int, file: Path) -> Any:
    return np.asarray(fitted(file, size, size)).shape


def predictor(file: Path) -> Any:
    return load_predictor(file).predict(np.eye(5))[0].tolist()


@pytest.fixture
def artefact(request: pytest.FixtureRequest, tiny_run: Path, tmp_path: Path) -> Path:
    """A copy of an artefact, with what is beside it."""
    name = request.param
    if name in ("latency_table.json", "config.yaml"):
        return Path(shutil.copy(tiny_run / name, tmp_path))
    if name == "run.db":
        ignored = shutil.ignore_patterns("models", "figures", "run.db*")
        copied = Path(shutil.copytree(tiny_run, tmp_path / "run", ignore=ignored)) / name
        with contextlib.closing(sqlite3.connect(tiny_run / name)) as db:
            db.execute("VACUUM INTO ?", (str(copied),))  # with what is still beside it in the log
        return copied
    if name.startswith("supernet/"):
        copied = Path(shutil.copytree(tiny_run / "supernet", tmp_path / "supernet")) / name.split("/")[1]
        if not copied.exists():  # that of a training that is not finished
            net = hwnas.load_supernet(copied.parent)
            optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
            report = checkpoint.Report(3, 1.5, 99.0, 50.0, 40.0)
            arithmetic = checkpoint.Arithmetic("fp32", False)
            state = checkpoint.State(net, optimizer, arithmetic, 3, [report], losses=[1.5])
            checkpoint.save(copied, state, {"seed": 0})
        return copied
    if name in ("pareto.json", "models/architecture.json"):
        copied = Path(shutil.copytree(tiny_run, tmp_path / "run", ignore=shutil.ignore_patterns("figures")))
        return (
            copied / name if name == "pareto.json" else min((copied / "models").glob("*/architecture.json"))
        )
    if name.startswith("models/"):
        folder = min((tiny_run / "models").iterdir())
        Image.new("L", (24, 24), 99).save(tmp_path / "photo.png")
        copied = Path(shutil.copytree(folder, tmp_path / "model"))
        (copied / "any.onnx").write_bytes((copied / "model.onnx").read_bytes())
        return copied / name.split("/")[1]
    if name == "predictor.json":
        rows = np.random.default_rng(0).random((30, 5))
        fitted_one = get_predictor("gp", 0)
        fitted_one.fit(rows, rows.sum(axis=1))
        fitted_one.save(tmp_path / name)
    else:
        pixels = np.random.default_rng(0).integers(0, 255, (40, 40, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / name)
    return tmp_path / name


MAY_DIFFER = ("config.yaml", "any.onnx", "image.png", "image.jpg")  # no checksum says what they were
SEALED = [*BYTES, *[of_values] * 5, nest]
CASES: list[tuple[str, Callable[[Path], Any], list[Mutation]]] = [
    ("latency_table.json", table, SEALED),
    ("config.yaml", load_config, BYTES),
    ("run.db", store, BYTES),
    ("supernet/supernet.json", supernet, SEALED),
    ("supernet/model.safetensors", supernet, BYTES),
    ("supernet/checkpoint.safetensors", training, BYTES),
    ("pareto.json", front, SEALED),
    ("models/architecture.json", entry, SEALED),
    ("models/model.json", model, SEALED),
    ("models/model.safetensors", model, BYTES),
    ("models/model.onnx", shipped, BYTES),
    ("models/any.onnx", any_onnx, BYTES),
    ("predictor.json", predictor, SEALED),
    ("image.png", partial(image, 16), BYTES),
    ("image.jpg", partial(image, 16), BYTES),
]


@pytest.mark.parametrize(
    ("artefact", "read", "mutations"), CASES, ids=[name for name, _, _ in CASES], indirect=["artefact"]
)
def test_rubbish_is_refused_by_name_or_harmless(
    artefact: Path, read: Callable[[Path], Any], mutations: list[Mutation], record_property: Any
) -> None:
    whole, rng = artefact.read_bytes(), random.Random(0)
    expected, refused, slowest = read(artefact), 0, 0.0
    for number in range(MUTATIONS):
        mutation = rng.choice(mutations)
        for left in artefact.parent.glob("run.db-*"):
            left.unlink()
        artefact.write_bytes(mutation(whole, rng))
        start = time.perf_counter()
        with bounded():
            try:
                found = read(artefact)
                if mutation in BYTES and artefact.name not in MAY_DIFFER:
                    assert found == expected, (number, mutation)
            except HwnasError as error:
                refused += 1
                message = str(error)
                assert artefact.name in message or str(artefact.parent) in message, (number, mutation)
                assert "\n" not in message, (number, mutation)
        slowest = max(slowest, time.perf_counter() - start)
    assert refused > 0
    record_property("mutations refused", refused)
    record_property("mutations without harm", MUTATIONS - refused)
    record_property("slowest reading, seconds", f"{slowest:.2f}")


def test_a_bit_that_flips_in_a_stored_value_is_noticed(tmp_path: Path) -> None:
    file, value = tmp_path / "run.db", 91.234
    with contextlib.closing(Store(file)) as opened:
        opened.add_round("search", 0, "toy", {"a1": {"k": 3}})
        opened.add_measurement(Measurement("a1", "accuracy", "net", value, None, 0.5))
    whole = file.read_bytes()
    place = whole.index(struct.pack(">d", value))
    for bit in range(64):
        damaged = bytearray(whole)
        damaged[place + bit // 8] ^= 1 << bit % 8
        file.write_bytes(damaged)
        noticed = pytest.raises(StoreError, match=r"run\.db is damaged: a row of its measurements")
        with contextlib.closing(Store(file)) as opened, noticed:
            opened.measurements("accuracy", "net")


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """MemoryError for what takes too much memory, AssertionError for what takes too long."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise AssertionError(f"not done after {HANGS_S} s")

    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    before = signal.signal(signal.SIGALRM, stop)
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, limits[1]))
    signal.alarm(HANGS_S)
    try:
        yield
    finally:
        signal.alarm(0)
        resource.setrlimit(resource.RLIMIT_AS, limits)
        signal.signal(signal.SIGALRM, before)
