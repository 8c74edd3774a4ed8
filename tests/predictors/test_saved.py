"""Saved predictors: what is refused, and how."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwnas.errors import ChecksumError, SearchError, StoreError
from hwnas.predictors import get_predictor, load_predictor
from hwnas.store import write_json


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    rows = np.random.default_rng(0).random((30, 4))
    predictor = get_predictor("ridge", 5)
    predictor.fit(rows, rows @ [1.0, 2.0, 3.0, 4.0])
    predictor.save(tmp_path / "predictor.json")
    return tmp_path / "predictor.json"


def test_the_file_is_json_of_the_rows(saved: Path) -> None:
    data = json.loads(saved.read_text())
    assert (data["schema"], data["predictor"], data["seed"]) == (1, "ridge", 5)
    assert np.array(data["features"]).shape == (30, 4)
    assert len(data["targets"]) == len(data["predicted"]) == 30


def test_nothing_is_saved_before_it_is_fitted(tmp_path: Path) -> None:
    with pytest.raises(SearchError, match="call fit"):
        get_predictor("gp").save(tmp_path / "predictor.json")
    assert not list(tmp_path.iterdir())


def test_damaged_files_are_refused(saved: Path) -> None:
    text = saved.read_text()
    saved.write_text(text[: len(text) // 2])
    with pytest.raises(StoreError, match="not valid JSON"):
        load_predictor(saved)
    saved.write_text(text.replace('"seed": 5', '"seed": 6'))
    with pytest.raises(
        ChecksumError, match=r"predictor\.json was changed after it was written.*save the pred"
    ):
        load_predictor(saved)
    with pytest.raises(StoreError, match="cannot read"):
        load_predictor(saved.with_name("none.json"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "has schema 2, this hwnas reads 1"),
        ({"predictor": None}, "not a predictor.*None"),
        ({"predictor": "forest"}, "unknown predictor 'forest'"),
        ({"features": [[1.0], [2.0, 3.0]]}, "equal length"),
        ({"targets": [1.0]}, "got"),
        ({"targets": ["a"] * 30}, "learns from numbers"),
        ({"predicted": [0.0] * 30}, "differs from the saved one by .* deviations.*versions of the libraries"),
        ({"predicted": [0.0] * 29}, "is not a predictor"),
    ],
)
def test_whole_files_that_hold_something_else_are_refused(
    saved: Path, change: dict[str, Any], message: str
) -> None:
    data = json.loads(saved.read_text())
    write_json(saved, {**data, **change})
    with pytest.raises(StoreError, match=message):
        load_predictor(saved)


def test_other_artefacts_are_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "table.json", {"schema": 1, "operators": []})
    with pytest.raises(StoreError, match=r"table\.json is not a predictor"):
        load_predictor(tmp_path / "table.json")
