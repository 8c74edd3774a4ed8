"""Tables of features, and the comparison on them."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from hwnas.errors import DataError, SearchError, StoreError
from hwnas.predictors.bench import Score, compare, read_table, summarise


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def test_columns_become_features(tmp_path: Path) -> None:
    lines = ["arch,width,kind,kernel,id,ms", "01,1.5,a,3,1,10", "11,2.5,b,,2,20", "02,9,a,5,3,30"]
    file = write(tmp_path / "t.csv", *lines)
    table = read_table(file, "ms", exclude=["id"], split=["arch"])
    assert table.names == (
        *("arch[0]=0", "arch[0]=1", "arch[1]=1", "arch[1]=2"),
        *("width", "kind=a", "kind=b", "kernel=", "kernel=3", "kernel=5"),
    )
    rows = dict(zip(table.targets.tolist(), table.features.tolist(), strict=True))
    assert rows == {
        10.0: [1, 0, 1, 0, 1.5, 1, 0, 0, 1, 0],
        20.0: [0, 1, 1, 0, 2.5, 0, 1, 1, 0, 0],
        30.0: [1, 0, 0, 1, 9.0, 1, 0, 0, 0, 1],
    }
    packed = tmp_path / "t.csv.gz"
    packed.write_bytes(gzip.compress(file.read_bytes()))
    assert (read_table(packed, "ms", ["width"]).features == read_table(file, "ms", ["wid*"]).features).all()


def test_numbers_that_only_name_something_are_one_hot(tmp_path: Path) -> None:
    file = write(tmp_path / "t.csv", "arch,op,y", "00,1,1", "01,2,2", "10,3,3")
    assert read_table(file, "y").names == ("arch=00", "arch=01", "arch=10", "op")
    assert read_table(file, "y", ["op"], categorical=["o*"]).names == ("op=1", "op=2", "op=3")


def test_rows_of_equal_features_become_one_with_the_mean_target(tmp_path: Path) -> None:
    file = write(tmp_path / "t.csv", "a,b,y", "1,x,1", "2,x,5", "1,x,2", "1,x,6")
    table = read_table(file, "y")
    assert sorted(table.targets) == [3.0, 5.0]
    assert table.duplicates == 2


def test_the_target_and_constant_columns_are_not_learnt_from(tmp_path: Path) -> None:
    file = write(tmp_path / "t.csv", "a,b,y", "1,7,1", "2,7,5")
    assert read_table(file, "y", features=["*"]).names == ("a",)


@pytest.mark.parametrize(
    ("lines", "options", "message"),
    [
        (["a,y"], {}, "no rows"),
        (["a,y", "1,2,3"], {}, "line 2 has 3 fields, the header has 2"),
        (["a,a,y", "1,2,3"], {}, "occurs twice"),
        (["a,y", "1,2", '"2,3'], {}, "not a CSV"),
        (["a,z", "1,2"], {}, "no column 'y'; it has a, z"),
        (["a,y", "1,2"], {"exclude": ["b*"]}, r"no column 'b\*'"),
        (["a,y", "1,2"], {"features": ["b"]}, "no column 'b'"),
        (["a,y", "1,x", "2,nan"], {"drop_missing": True}, "no row has a finite number as the target 'y'"),
        (["a,y", "1,2", "1,3"], {}, "says anything"),
        (["a,y", "1,2", "2,3"], {"exclude": ["a"]}, "says anything"),
        (["a,y", "ab,2", "abc,3"], {"split": ["a"]}, "cannot be split, its texts are 2 to 3 long"),
        (["a,y", "ab,2", "cd,3"], {"split": ["b"]}, "no column 'b'"),
        (["a,y", "ab,2", "cd,3"], {"split": ["y"]}, "'y' is not one of the features"),
        (["a,y", "1,2", "2,3"], {"features": ["a"], "categorical": ["*"]}, "'y' is not one of the features"),
        (["a,y", *(f"n{i},{i}" for i in range(65))], {}, "65 distinct values.*--exclude a.*--split a"),
    ],
)
def test_other_tables_are_refused(
    tmp_path: Path, lines: list[str], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read_table(write(tmp_path / "t.csv", *lines), "y", **options)


def test_rows_without_a_target_are_named_and_can_be_left_out(tmp_path: Path) -> None:
    lines = ["a,b,y", "1,3,2", "", "2,3,NaN", "3,3,", "4,9,inf", "5,3,failed", "6,9,-inf", "7,9,N/A", "8,9,6"]
    file = write(tmp_path / "t.csv", *lines)
    with pytest.raises(
        DataError,
        match=r"the target 'y' is not a finite number in 6 of 8 rows \(line 4: 'NaN', line 5: '', "
        r"line 6: 'inf', line 7: 'failed', line 8: '-inf', and 1 more\); correct them, or "
        r"leave them out: --drop-missing",
    ):
        read_table(file, "y")
    table = read_table(file, "y", drop_missing=True)
    assert table.dropped == 6
    assert sorted(table.targets) == [2.0, 6.0]
    assert table.names == ("a", "b")


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_delimiters_and_byte_order_marks_say_the_same(delimiter: str, encoding: str, tmp_path: Path) -> None:
    """The name of the first column would have the mark in it."""
    lines = ["größe,kind,ms", "1,a,10.5", "2,b,20", "3,a,30"]
    file = tmp_path / "TABLE.CSV"
    file.write_text("\r\n".join(lines).replace(",", delimiter), encoding=encoding)
    table = read_table(file, "ms")
    assert table.names == ("größe", "kind=a", "kind=b")
    assert sorted(table.targets) == [10.5, 20, 30]


def test_a_spreadsheet_with_decimal_commas_is_read(tmp_path: Path) -> None:
    lines = ["width;name, kind;ms", "1,5;a;10,25", "2;b;-2e3", "1,25;a;,5", ";;", ";;"]
    table = read_table(write(tmp_path / "t.csv", *lines), "ms")
    assert table.names == ("width", "name, kind=a", "name, kind=b")
    assert sorted(table.targets) == [-2000, 0.5, 10.25]
    assert sorted(table.features[:, 0]) == [1.25, 1.5, 2.0]


@pytest.mark.parametrize("times", [1, 2, 3])
def test_the_index_of_pandas_is_not_learnt_from(times: int, tmp_path: Path) -> None:
    """Neither as it is written, nor once it was read and written again."""
    file, frame = tmp_path / "t.csv", pd.DataFrame({"a": [1, 2, 4], "ms": [10.0, 20.0, 30.0]})
    for _ in range(times):
        frame.sample(frac=1, random_state=0).to_csv(file)
        frame = pd.read_csv(file)
    table = read_table(file, "ms")
    assert table.names == ("a",)
    assert sorted(table.row_labels) == ["Unnamed: 0", "Unnamed: 0.1", "Unnamed: 0.1.1"][:times]
    asked = read_table(file, "ms", ["a", "Unnamed: 0"])
    assert set(asked.names) == {"a", "Unnamed: 0"}
    if times == 1:
        assert read_table(file, "ms", ["*", "Unnamed: 0"]).names == asked.names
    assert asked.row_labels == ()


def test_a_column_called_index_is_an_index_if_it_numbers_rows(tmp_path: Path) -> None:
    numbered = write(tmp_path / "a.csv", "index,a,ms", "2,1,10", "0,2,20", "1,4,30")
    assert read_table(numbered, "ms").names == ("a",)
    assert read_table(numbered, "ms").row_labels == ("index",)
    choice = write(tmp_path / "b.csv", "index,a,ms", "2,1,10", "0,2,20", "2,4,30")
    assert read_table(choice, "ms").names == ("index", "a")


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot read"):
        read_table(tmp_path / "none.csv", "y")
    file = tmp_path / "t.csv.gz"
    file.write_bytes(gzip.compress(b"a,y\n" + b"1,2\n" * 1000)[:-12])
    with pytest.raises(DataError, match="not a CSV file"):
        read_table(file, "y")
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="UTF-8"):
        read_table(file, "y")


def problem() -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(0).random((80, 3))
    return x, x @ [1.0, 2.0, 3.0] + 1


def test_compare_gives_a_score_a_seed_on_unseen_rows() -> None:
    x, y = problem()
    calls: list[tuple[int, int]] = []
    scores = compare(x, y, ["ridge", "gp"], 40, 3, lambda done, total, text="": calls.append((done, total)))
    assert {name: len(found) for name, found in scores.items()} == {"ridge": 3, "gp": 3}
    for score in scores["ridge"]:
        assert score.kendall_tau > 0.97
        assert score.spearman > 0.99
        assert score.rmse < 0.1
        assert score.mape is not None
        assert 0 < score.mape < 5
        assert min(score.fit_s, score.predict_s) > 0
    noise = compare(np.random.default_rng(1).random((80, 3)), y, ["ridge"], 40, 3)["ridge"]
    assert max(score.kendall_tau for score in noise) < 0.5
    assert calls[-1] == (6, 6)
    again = compare(x, y, ["gp"], 40, 3)["gp"]
    assert [s.kendall_tau for s in again] == [s.kendall_tau for s in scores["gp"]]


def test_a_target_of_zero_has_no_relative_error() -> None:
    x, y = problem()
    scores = compare(x, np.where(y > 4, 0.0, y), ["ridge"], 40, 2)
    assert summarise(scores["ridge"])["mape"] is None


def test_scores_are_summarised_over_seeds() -> None:
    scores = [Score(tau, tau, 1.0, 2.0, 95.0, 0.1, 0.1) for tau in (0.5, 0.7)]
    found = summarise(scores)
    assert found["kendall_tau"] == pytest.approx({"mean": 0.6, "std": np.std([0.5, 0.7], ddof=1)})
    assert found["rmse"] == {"mean": 1.0, "std": 0.0}
    assert summarise(scores[:1])["kendall_tau"] == {"mean": 0.5, "std": None}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train": 75}, "80 distinct rows are too few to learn from 75 and judge on 10"),
        ({"train": 1}, "give at least 2 and 1"),
        ({"seeds": 0}, "give at least 2 and 1"),
    ],
)
def test_impossible_comparisons_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        compare(*problem(), ["ridge"], **{"train": 40, "seeds": 1, **options})
    with pytest.raises(SearchError, match="unknown predictor 'forest'"):
        compare(*problem(), ["forest"], 40, 1)
    with pytest.raises(DataError, match="every target is 3"):
        compare(problem()[0], np.full(80, 3.0), ["ridge"], 40, 1)


def test_a_column_name_of_two_lines_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('a,"latency\n(ms)"\n' + "".join(f"{i},{2 * i}\n" for i in range(5)))
    table = read_table(tmp_path / "t.csv", target="latency (ms)")
    assert table.names == ("a",)
    assert table.targets.tolist() == [0, 2, 4, 6, 8]
