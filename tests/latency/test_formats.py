"""Other projects' tables: what is read, what is said to be left out, and exact round trips."""

from __future__ import annotations

import gzip
import json
import math
import os
import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from hwnas.errors import StoreError, TableError
from hwnas.latency.formats import _keys, get_format, read_ofa, write_ofa
from hwnas.latency.table import Entry, LatencyTable
from hwnas.spaces import Operator, get_space
from tests.latency.fakes import small_space

DATA = Path(os.environ.get("HWNAS_TEST_DATA", Path(__file__).parents[3] / "shared" / "data")) / "benchmarks"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="needs measured tables (HWNAS_TEST_DATA)")

PROXYLESS_STAGES = [
    {"block": "mbconv", "width": 16, "depth": 1, "kernel": [3, 5, 7], "expand": 1, "name": "first"},
    *(
        {"block": "mbconv", "width": w, "depth": d, "kernel": [3, 5, 7], "expand": [3, 6], "stride": s}
        for w, d, s in [
            (24, [1, 4], 2),
            (40, [4], 2),
            (80, [4], 2),
            (96, [4], 1),
            (192, [4], 2),
            (320, [1], 1),
        ]
    ),
]


def proxyless_space():
    return get_space(
        "mobilenetv3",
        stem={"width": 32, "activation": "relu6"},
        stages=[{**stage, "activation": "relu6"} for stage in PROXYLESS_STAGES],
        head={"width": 1280, "activation": "relu6"},
    )


def table_of(operators) -> LatencyTable:
    rng = np.random.default_rng(0)
    runtime = {"name": "r", "version": "1", "threads": 1, "precisions": ["fp32"], "batch_size": 1}
    entries = {op.key: Entry(*rng.uniform(1e-4, 9, 2).tolist(), int(rng.integers(1, 99))) for op in operators}
    return LatencyTable({"name": "d", "cpu": "d", "cores": 1}, runtime, {"rounds": 1}, [], entries)


def write_yaml(path: Path, rows: dict) -> Path:
    path.write_text(yaml.dump(rows, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper)))
    return path


@pytest.mark.parametrize(
    "space",
    [
        get_space("mobilenetv3", resolutions=(96, 225)),
        get_space("mobilenetv3", width=1.2, classes=10),
        proxyless_space(),
    ],
    ids=["ofa", "ofa-1.2", "proxyless"],
)
def test_round_trip_is_exact(space, tmp_path: Path) -> None:
    table = table_of(space.all_operators())
    assert write_ofa(table, tmp_path / "lut.yaml") == {}
    found = read_ofa([tmp_path / "lut.yaml"], "d")
    assert found.skipped == {}
    assert found.table.operators == table.operators
    archs = space.sample(20, 0)
    np.testing.assert_array_equal(found.table.sum_ms(space, archs), table.sum_ms(space, archs))
    found.table.save(tmp_path / "table.json")
    assert LatencyTable.load(tmp_path / "table.json") == found.table


def test_once_for_all_s_own_query_finds_every_row(tmp_path: Path) -> None:
    """The rows that its latency table looks up for a network sum to ours."""
    space = get_space("mobilenetv3", resolutions=(160,))
    table = table_of(space.all_operators())
    write_ofa(table, tmp_path / "lut.yaml")
    lut = yaml.safe_load((tmp_path / "lut.yaml").read_text())
    arch = space.sample(1, 0)[0]
    keys, size = ["Conv-input:160x160x3-output:80x80x16"], 80
    for op in space.operators(arch)[1:-1]:
        mid = op.integer("mid") if op.kind == "mbconv" else op.in_shape[0]
        out = (size - 1) // op.integer("s") + 1
        keys.append(
            f"expanded_conv-input:{size}x{size}x{op.in_shape[0]}-output:{out}x{out}x{op.out_shape[0]}"
            f"-expand:{mid}-kernel:{op['k']}-stride:{op['s']}-idskip:{op['res']}-se:{op['se']}"
            f"-hs:{int(op['act'] == 'hswish')}"
        )
        size = out
    keys += [
        f"Conv_1-input:{size}x{size}x160-output:{size}x{size}x960",
        f"AvgPool2D-input:{size}x{size}x960-output:1x1x960",
        "Conv_2-input:1x1x960-output:1x1x1280",
        "Logits-input:1x1x1280-output:1000",
    ]
    assert sum(lut[key]["mean"] for key in keys) == pytest.approx(table.sum_ms(space, [arch])[0])


def test_what_cannot_be_written_is_said(tmp_path: Path) -> None:
    space = small_space()  # fused blocks, a relu stem, heads without a feature mix
    skipped = write_ofa(table_of(space.all_operators()), tmp_path / "lut.yaml")
    read = read_ofa([tmp_path / "lut.yaml"], "d").table
    kept = set(read.operators)
    assert kept
    assert kept | {key for keys in skipped.values() for key in keys} == {o.key for o in space.all_operators()}
    assert {
        "kind fused",
        "a stem other than MobileNetV3's",
        "a head other than MobileNetV3's",
    } <= skipped.keys()
    fused = [op for op in space.all_operators() if op.kind == "fused"]
    with pytest.raises(TableError, match=r"no operator of the table can be written.*kind fused"):
        write_ofa(table_of(fused), tmp_path / "none.yaml")
    with pytest.raises(
        TableError, match=r"a stem other than .*kind convpool.*kind bottleneck.*kind classifier"
    ):
        write_ofa(table_of(get_space("resnet50").all_operators()), tmp_path / "none.yaml")
    odd = Operator.parse("mbconv-in:8x8x16-out:8x8x16-mid:8-k:3-s:1-act:relu-se:0-res:1-p:fp32")
    good = Operator.parse("mbconv-in:8x8x16-out:8x8x16-mid:48-k:3-s:1-act:relu-se:0-res:1-p:fp32")
    assert write_ofa(table_of([odd, good]), tmp_path / "odd.yaml") == {
        "a middle that expand cannot say": [odd.key]
    }


BLOCK = "expanded_conv-input:28x28x40-output:28x28x40-expand:3-kernel:5-stride:1-idskip:1"


def test_rows_without_a_counterpart_are_counted(tmp_path: Path) -> None:
    rows = {
        BLOCK + "-se:1-hs:0": {"mean": 1.0, "var": 0.25, "count": 7},
        BLOCK.replace("output:28x28x40", "output:14x14x40") + "-se:1-hs:0": {"mean": 1.0},
        BLOCK.replace("x40", "x56") + "-se:0": {"mean": 1.0},  # no hs, and no stage has 56 channels
        "Conv_1-input:7x7x160-output:7x7x960": {"mean": 1.0},  # no classifier
        "Dropout-input:1280-output:1280": {"mean": 1.0},
    }
    found = read_ofa([write_yaml(tmp_path / "lut.yaml", rows)], "d")
    key = "mbconv-in:28x28x40-out:28x28x40-mid:120-k:5-s:1-act:relu-se:1-res:1-p:fp32"
    assert found.table.operators == {key: Entry(1.0, 0.5, 7)}
    assert sorted(len(keys) for keys in found.skipped.values()) == [1, 1, 1, 1]
    assert sum(found.table.protocol["skipped"].values()) == len(rows) - 1


def test_a_head_is_the_sum_of_its_rows(tmp_path: Path) -> None:
    rows = {
        BLOCK + "-se:1-hs:0": {"mean": 1.0},
        "final_expand_layer-input:7x7x160-output:7x7x960": {"mean": 0.5, "var": 0.09},
        "feature_mix_layer-input:1x1x960-output:1x1x1280": {"mean": 0.25, "var": 0.16},
        "classifier-input:1280-output:1000": {"mean": 0.125, "var": 0.0},
    }
    found = read_ofa([write_yaml(tmp_path / "lut.yaml", rows)], "d")
    key = "head-in:7x7x160-out:1000-mid:960-feat:1280-act:hswish-p:fp32"
    assert found.table.operators[key] == Entry(0.875, math.sqrt(0.09 + 0.16), 1)
    assert any("no row for pooling" in note for note in found.notes)
    rows["AvgPool2D-input:7x7x960-output:1x1x960"] = {"mean": 0.0625}
    found = read_ofa([write_yaml(tmp_path / "lut.yaml", rows)], "d")
    assert found.table.operators[key].ms == 0.9375
    assert not any("pooling" in note for note in found.notes)


def test_csv_yaml_and_gzip_say_the_same(tmp_path: Path) -> None:
    key = BLOCK + "-se:1-hs:1"
    text = f"key,op,mean_ms,var\n{key},expanded_conv,1.5,0.25\n"
    (tmp_path / "a.csv").write_text(text)
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(text.encode()))
    write_yaml(tmp_path / "a.yaml", {key: {"mean": 1.5, "var": 0.25}})
    tables = [read_ofa([tmp_path / name], "d").table.operators for name in ("a.csv", "a.csv.gz", "a.yaml")]
    assert tables[0] == tables[1] == tables[2]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv_from_spreadsheets_is_read(delimiter: str, tmp_path: Path) -> None:
    """A byte-order mark, an ending in capitals, other delimiters; ; comes with decimal commas."""
    rows = [["key", "op", "mean_ms", "std_ms"], [BLOCK + "-se:1-hs:1", "expanded_conv", "1.5", "0.25"]]
    if delimiter == ";":
        rows[1][2:] = ["1,5", "0,25"]
    text = "\r\n".join(delimiter.join(row) for row in rows).encode("utf-8-sig")
    (tmp_path / "A.CSV").write_bytes(text)
    (tmp_path / "B.CSV.GZ").write_bytes(gzip.compress(text))
    (tmp_path / "c.tsv").write_bytes(text)
    for name in ("A.CSV", "B.CSV.GZ", "c.tsv"):
        (entry,) = read_ofa([tmp_path / name], "d").table.operators.values()
        assert entry == Entry(1.5, 0.25, 1)
    (tmp_path / "d.yaml").write_bytes(f"{BLOCK}-se:1-hs:1: {{mean: 1.5, std: 0.25}}".encode("utf-8-sig"))
    assert len(read_ofa([tmp_path], "d").table.operators) == 1


def test_a_file_with_a_row_twice_or_given_twice_is_refused(tmp_path: Path) -> None:
    keys = [BLOCK + "-se:1-hs:1", BLOCK.replace("expand:3", "expand:120") + "-se:1-hs:1"]
    for name, twice in (("same.csv", [keys[0]] * 2), ("respelled.csv", keys)):
        (tmp_path / name).write_text("key,mean_ms\n" + "".join(f"{key},1.5\n" for key in twice))
        with pytest.raises(TableError, match="is there twice"):
            read_ofa([tmp_path / name], "d")
    file = write_yaml(tmp_path / "lut.yaml", {keys[0]: {"mean": 1.5}})
    with pytest.raises(TableError, match=r"lut\.yaml is given twice; give each file once"):
        read_ofa([file, tmp_path], "d")


def test_the_deviation_is_read_and_unknown_where_there_is_none(tmp_path: Path) -> None:
    """Once-for-All writes `std`, NSGANetV2 `var`; a CSV file can have either."""
    keys = [BLOCK.replace("kernel:5", f"kernel:{kernel}") + "-se:1-hs:1" for kernel in (3, 5, 7)]
    rows = dict(zip(keys, [{"std": 0.5}, {"var": 0.0625}, {}], strict=True))
    file = write_yaml(tmp_path / "lut.yaml", {key: {"mean": 1.5, **facts} for key, facts in rows.items()})
    lines = [f"{keys[0]},1.5,0.5,", f"{keys[1]},1.5,,0.0625", f"{keys[2]},1.5,,"]
    (tmp_path / "lut.csv").write_text("\n".join(["key,mean_ms,std_ms,var", *lines]) + "\n")
    for path in (file, tmp_path / "lut.csv"):
        table = read_ofa([path], "d").table
        assert [entry.std_ms for entry in table.operators.values()] == [0.5, 0.25, None]
        table.save(tmp_path / "table.json")
        assert json.loads((tmp_path / "table.json").read_text())["operators"][2]["std_ms"] is None
        assert LatencyTable.load(tmp_path / "table.json") == table
        write_ofa(table, tmp_path / "again.yaml")
        assert read_ofa([tmp_path / "again.yaml"], "d").table.operators == table.operators


def test_a_head_has_a_deviation_if_all_its_rows_have_one(tmp_path: Path) -> None:
    rows = {
        BLOCK + "-se:1-hs:0": {"mean": 1.0},
        "Conv_1-input:7x7x160-output:7x7x960": {"mean": 0.5, "std": 0.3},
        "Conv_2-input:1x1x960-output:1x1x1280": {"mean": 0.25, "std": 0.4},
        "Logits-input:1x1x1280-output:1000": {"mean": 0.125, "std": 0.0},
    }
    key = "head-in:7x7x160-out:1000-mid:960-feat:1280-act:hswish-p:fp32"
    found = read_ofa([write_yaml(tmp_path / "lut.yaml", rows)], "d")
    assert found.table.operators[key].std_ms == pytest.approx(0.5)
    del rows["Logits-input:1x1x1280-output:1000"]["std"]
    found = read_ofa([write_yaml(tmp_path / "lut.yaml", rows)], "d")
    assert found.table.operators[key] == Entry(0.875, None, 1)


RESOLUTIONS = range(160, 225, 4)


@pytest.fixture(scope="module")
def ofa_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of files as Once-for-All has for one phone: 17 resolutions, `count`, `mean` and `std`."""
    folder, rng = tmp_path_factory.mktemp("tables") / "latency_table@phone", np.random.default_rng(0)
    folder.mkdir()
    means: dict[str, float] = {}
    for resolution in RESOLUTIONS:
        space = get_space("mobilenetv3", width=1.2, resolutions=(resolution,))
        rows = {}
        for key in dict.fromkeys(key for op in space.all_operators() for key in _keys(op, False)[0]):
            mean = means.setdefault(key, rng.uniform(0.1, 4.0)) * rng.uniform(0.99, 1.01)
            rows[key] = {"count": int(rng.integers(40, 500)), "mean": mean, "std": 0.03 * mean}
        write_yaml(folder / f"{resolution}_lookup_table.yaml", rows)
    (folder / "README.md").write_text("not a table")
    (folder / "._160_lookup_table.yaml").write_bytes(b"\x00\x05\x16\x07")  # macOS leaves such files
    return folder


def test_once_for_all_s_files_of_one_device_make_one_table(ofa_files: Path) -> None:
    found = read_ofa([ofa_files], "Phone")
    space = get_space("mobilenetv3", width=1.2, resolutions=tuple(RESOLUTIONS))
    assert found.table.operators.keys() == {op.key for op in space.all_operators()}
    assert found.skipped == {}
    assert found.table.protocol["origin"] == [f"{size}_lookup_table.yaml" for size in RESOLUTIONS]
    (note,) = found.notes
    parts = re.fullmatch(
        r"(\d+) of (\d+) rows are in several files and were merged: means weighted by count; "
        r"the means of one row differ by at most (\d\.\d) %",
        note,
    )
    assert parts is not None
    assert (int(parts[1]), int(parts[2])) == (312, 870)
    assert 1 < float(parts[3]) <= 2
    files = [ofa_files / name for name in found.table.protocol["origin"]]
    assert read_ofa(files, "Phone").table == found.table


def test_a_merged_row_is_what_all_runs_together_would_give(tmp_path: Path) -> None:
    """Mean, deviation and count are those of the runs of both files."""
    rng, key = np.random.default_rng(0), BLOCK + "-se:1-hs:1"
    runs = [rng.normal(1.0, 0.1, 40), rng.normal(1.1, 0.2, 160)]
    files = []
    for i, of in enumerate(runs):
        facts = {"mean": float(of.mean()), "std": float(of.std()), "count": len(of)}
        files.append(write_yaml(tmp_path / f"{i}.yaml", {key: facts}))
    (entry,) = read_ofa(files, "d").table.operators.values()
    together = np.concatenate(runs)
    assert entry.count == 200
    assert (entry.ms, entry.std_ms) == pytest.approx((together.mean(), together.std()))
    write_yaml(files[0], {key: {"mean": 1.0}})
    found = read_ofa(files, "d")
    (entry,) = found.table.operators.values()
    assert entry.ms == pytest.approx((1.0 + runs[1].mean()) / 2)
    assert (entry.std_ms, entry.count) == (None, 1)
    assert "weighted by count, or equally where a row has no count" in found.notes[-1]


def test_a_folder_without_tables_is_refused(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("")
    with pytest.raises(
        TableError, match=r"has no look-up table; its name ends in \.yaml, \.yml, \.csv, \.tsv"
    ):
        read_ofa([tmp_path], "d")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({BLOCK: {"mean": -1.0}}, "mean is -1.0 ms"),
        ({BLOCK: {"mean": math.nan}}, "mean is nan ms"),
        ({BLOCK: {"mean": 0.0}}, "ms is 0.0"),
        ({BLOCK: {"mean": 1.0, "std": -0.5}}, r"std -0\.5; give finite numbers that are not negative"),
        ({BLOCK: {"mean": 1.0, "std": 1e300}}, r"std 1e\+300; give finite"),
        ({BLOCK: {"mean": 1.0, "var": -0.5}}, r"var -0\.5; give finite"),
        ({BLOCK: {"mean": 1.0, "std": "wide"}}, "is not a row"),
        ({BLOCK: {"mean": 1.0, "count": 0}}, "count is 0; it must be positive"),
        ({BLOCK: {}}, "is not a row"),
        ({BLOCK: 3.0}, "is not a row"),
        ({"expanded_conv-input:7x7x8-output:7x7x8": {"mean": 1.0}}, "is not a row.*kernel"),
        ({"nonsense": {"mean": 1.0}}, "'nonsense' is not a row"),
        ({"Dropout-input:8-output:8": {"mean": 1.0}}, "no row of a kind"),
        ([1, 2], "holds list"),
    ],
)
def test_impossible_files_are_refused(rows, message: str, tmp_path: Path) -> None:
    with pytest.raises(TableError, match=message):
        read_ofa([write_yaml(tmp_path / "lut.yaml", rows)], "d")


def test_other_files_are_named_for_what_they_are(tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text("name,ms\na,1\n")
    with pytest.raises(TableError, match=r"other.csv has no column key and no column mean_ms; a look-up"):
        read_ofa([tmp_path / "other.csv"], "board")
    (tmp_path / "table.json").write_text('{"schema": 1, "operators": []}')
    with pytest.raises(TableError, match=r"table.json is a latency table of hwnas already"):
        read_ofa([tmp_path / "table.json"], "board")


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot read"):
        read_ofa([tmp_path / "none.yaml"], "d")
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress(b"key,mean_ms\n" * 100)[:20])
    with pytest.raises(TableError, match="is not a look-up table"):
        read_ofa([tmp_path / "cut.csv.gz"], "d")
    (tmp_path / "code.yaml").write_text("!!python/object/apply:os.getcwd []")
    with pytest.raises(TableError, match="is not a look-up table"):
        read_ofa([tmp_path / "code.yaml"], "d")
    with pytest.raises(TableError, match="unknown format 'tvm'; known: ofa"):
        get_format("tvm")


@needs_data
def test_the_i7_table_holds_once_for_all_s_space() -> None:
    found = read_ofa([DATA / "lut_i7-8700k_ofa_mbv3.csv.gz"], "Intel Core i7-8700K")
    assert found.skipped == {}
    for width in (1.0, 1.2):
        space = get_space("mobilenetv3", width=width, resolutions=tuple(range(96, 257, 4)))
        assert {op.key for op in space.all_operators()} <= found.table.operators.keys()
    space = get_space("mobilenetv3", resolutions=(224,))
    latency = found.table.latency_ms(space.sample(50, 0))
    assert ((latency > 5) & (latency < 60)).all()


@needs_data
def test_the_pixel_table_holds_proxylessnas_s_space() -> None:
    found = read_ofa([DATA / "lut_pixel1_proxyless.csv.gz"], "Google Pixel 1")
    assert found.skipped == {}
    space = proxyless_space()
    latency = found.table.latency_ms(space.sample(50, 0))
    assert ((latency > 50) & (latency < 300)).all()
