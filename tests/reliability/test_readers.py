"""Any YAML, JSON or CSV that hwnas reads is read, or refused in one line that names the file.

hypothesis makes it up: any text, any plain data, and a real file with any value in any place, sealed.
HWNAS_MUTATIONS is how many of each; the default is for every day.
"""

from __future__ import annotations

import copy
import csv
import gzip
import io
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

import hwnas
from hwnas import store
from hwnas.config import load_config, parse_override
from hwnas.errors import HwnasError
from hwnas.latency.bundle import build_table
from hwnas.latency.formats import read_ofa
from hwnas.latency.predictor import LatencyPredictor
from hwnas.latency.table import LatencyTable
from hwnas.predictors import load_predictor
from hwnas.predictors.bench import read_table
from hwnas.store import sealed
from tests.reliability.make_fixtures import FIXTURES
from tests.reliability.test_rubbish import MUTATIONS, bounded, places

FIXTURE = FIXTURES / "schema-2"
SETTINGS = settings(max_examples=max(10, MUTATIONS), deadline=None)
BOMB = "\n".join(
    ["a: &a [x, x, x, x, x, x, x, x, x]"]
    + [f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in zip("abcdefghijk", "bcdefghijkl", strict=True)]
)

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
plain = st.recursive(
    scalars, lambda inside: st.lists(inside) | st.dictionaries(st.text(), inside), max_leaves=12
)
finite = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inside: st.lists(inside) | st.dictionaries(st.text(), inside),
    max_leaves=12,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("read")


def check(read: Callable[[Path], Any], file: Path, data: bytes) -> str | None:
    """What a file of these bytes is refused with, if it is."""
    file.write_bytes(data)
    try:
        with bounded():
            read(file)
    except HwnasError as error:
        said = str(error)
    else:
        return None
    assert file.name in said or str(file.parent) in said
    assert "\n" not in said
    assert len(said) < 5000
    return said


def changed(file: Path, place: float, value: Any) -> bytes:
    """A JSON file with another value somewhere, `place` of the way through it, sealed."""
    data = json.loads(file.read_bytes())
    paths = list(places(data))
    *parents, last = paths[int(place * len(paths))]
    holder = data
    for key in parents:
        holder = holder[key]
    holder[last] = value
    return json.dumps(sealed(data)).encode()


# ---- experiments ----------------------------------------------------------------------------------


@SETTINGS
@given(text=st.text() | plain.map(lambda data: yaml.dump(data, allow_unicode=True)))
@example(text=BOMB)
@example(text=f"name: *l\n{BOMB}")
@example(text=BOMB + "\nname: *l")
@example(text="name: &a [*a]")
@example(text="&a {name: *a, data: *a, space: *a}")
@example(text="!!python/object/apply:os.system ['false']")
@example(text="name: " + "9" * 5000)
@example(text="seed: 0x" + "f" * 5000)
@example(text="name: " + "x" * 20_000)
@example(text="name: 1:2:3:4\nseed: 0o17\n? [a]\n: b")
@example(text="? '\n\n'")
@example(text="[" * 2000)
@example(text="".join(f"a{i}: 0\n" for i in range(1000)))
@example(text="a:\n- " * 1000)
def test_an_experiment_of_any_text(text: str, folder: Path) -> None:
    check(load_config, folder / "any.yaml", text.encode(errors="replace"))


@SETTINGS
@given(place=st.floats(0, 1, exclude_max=True), value=plain)
def test_an_experiment_with_any_value_in_any_place(place: float, value: Any, folder: Path) -> None:
    data = yaml.safe_load((FIXTURE / "config.yaml").read_text())
    paths = list(places(data))
    *parents, last = paths[int(place * len(paths))]
    holder = data
    for key in parents:
        holder = holder[key]
    holder[last] = copy.deepcopy(value)
    check(load_config, folder / "any.yaml", yaml.dump(data).encode())


@SETTINGS
@given(text=st.text())
@example(text="a=" + "[" * 2000)
@example(text="a\nb=\x1f")
@example(text="a=!!python/object/apply:os.system ['false']")
@example(text="a={{}: 1}")
@example(text="a=2025-13-45")
def test_a_setting_of_any_text(text: str) -> None:
    try:
        with bounded():
            parse_override(text)
    except HwnasError as error:
        said = str(error)
    else:
        said = ""
    assert "\n" not in said
    assert len(said) < 5000


# ---- JSON -----------------------------------------------------------------------------------------


def supernet(file: Path) -> Any:
    return hwnas.load_supernet(file.parent)


def model(file: Path) -> Any:
    return hwnas.load_model(file.parent)


READERS: dict[str, tuple[Callable[[Path], Any], Path]] = {
    "table": (lambda file: LatencyTable.load(file).summary(), FIXTURE / "latency_table.json"),
    "predictor": (load_predictor, FIXTURE / "predictor.json"),
    "supernet": (supernet, FIXTURE / "supernet" / "supernet.json"),
    "model": (model, min((FIXTURE / "models").iterdir()) / "model.json"),
    "latency predictor": (LatencyPredictor.load, FIXTURE / "latency_table.json"),
    "results of a bundle": (build_table, FIXTURE / "predictor.json"),
}


@pytest.mark.parametrize("kind", READERS)
@SETTINGS
@given(data=plain)
@example(data={"schema": 1, "refers_to": ".", "checksum": "x"})
def test_any_json(kind: str, data: Any, folder: Path) -> None:
    read, file = READERS[kind]
    check(read, folder / file.name, json.dumps(data).encode())
    if isinstance(data, dict):
        try:
            whole = sealed({**data, "schema": 1})
        except ValueError:  # NaN, which no seal is of
            return
        check(read, folder / file.name, json.dumps(whole).encode())


@pytest.mark.parametrize("kind", ["table", "predictor", "supernet", "model"])
@SETTINGS
@given(place=st.floats(0, 1, exclude_max=True), value=finite)
@example(place=0.359375, value=8192)  # a width that takes more memory than there is
def test_a_json_file_with_any_value_in_any_place(kind: str, place: float, value: Any, folder: Path) -> None:
    read, file = READERS[kind]
    weights = file.parent / "model.safetensors"
    if weights.exists():
        (folder / weights.name).write_bytes(weights.read_bytes())
    check(read, folder / file.name, changed(file, place, value))


# ---- CSV ------------------------------------------------------------------------------------------


def rows_as_text(rows: list[list[str]]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()


fields = st.text(max_size=8) | st.floats().map(repr) | st.integers().map(str)
tables = st.lists(st.lists(fields, min_size=1, max_size=4), max_size=6)


@SETTINGS
@given(text=st.text() | tables.map(rows_as_text) | tables.map(lambda t: rows_as_text([["a", "ms"], *t])))
@example(text="a,ms\n" + "1,2\n" * 3 + '"')
@example(text="a,ms\n" + "x" * 200_000 + ",1\n")
@example(text="a," + "x" * 100_000 + "\n1,2\n")
@example(text='a,"latency\n(ms)"\n1,2\n')
def test_a_csv_of_any_text(text: str, folder: Path) -> None:
    data = text.encode(errors="replace")
    check(partial(read_table, target="ms"), folder / "any.csv", data)
    check(partial(read_table, target="ms"), folder / "any.csv.gz", gzip.compress(data, 1))


KEYS = st.sampled_from(
    [
        "expanded_conv-input:56x56x24-output:28x28x32-expand:6-kernel:3-stride:2-idskip:0",
        "Conv-input:1x1x1-",
        "Logits-input:1280-output:1000",
        "Conv_1-input:7x7x96-output:7x7x576",
    ]
)


@SETTINGS
@given(
    rows=st.dictionaries(st.text() | KEYS, plain | st.fixed_dictionaries({"mean": scalars})),
    text=st.text() | tables.map(lambda t: rows_as_text([["key", "mean_ms"], *t])),
)
@example(rows={}, text=BOMB)
@example(rows={}, text="!!python/object/apply:os.system ['false']")
def test_a_look_up_table_of_any_text(rows: dict[str, Any], text: str, folder: Path) -> None:
    for name in ("any.yaml", "any.csv"):
        read = lambda file: read_ofa([file], "board")  # noqa: E731
        check(read, folder / name, text.encode(errors="replace"))
        check(read, folder / f"{name}.gz", gzip.compress(text.encode(errors="replace"), 1))
    check(read, folder / "any.yaml", yaml.dump(rows).encode())


@pytest.mark.parametrize("name", ["bomb.csv.gz", "bomb.yaml.gz"])
def test_what_grows_without_bound_is_refused(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "MOST_UNPACKED", 4 << 20)
    bomb = gzip.compress(bytes(5 << 20), 1)
    for read in (partial(read_table, target="ms"), lambda file: read_ofa([file], "board")):
        assert "holds more than 4 MiB" in str(check(read, folder / name, bomb))
