"""Other projects' tables: what is read, what is said to be left out, and exact round trips."""

from __future__ import annotations

import gzip
import math
import os
from pathlib import Path

import numpy as np
import pytest
import yaml

from hwnas.errors import StoreError, TableError
from hwnas.latency.formats import get_format, read_ofa, write_ofa
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
    path.write_text(yaml.safe_dump(rows))
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
        "classifier-input:1280-output:1000": {"mean": 0.125},
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
    with pytest.raises(TableError, match="is there twice"):
        read_ofa([tmp_path / "a.csv", tmp_path / "a.yaml"], "d")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({BLOCK: {"mean": -1.0}}, "mean is -1.0 ms"),
        ({BLOCK: {"mean": math.nan}}, "mean is nan ms"),
        ({BLOCK: {"mean": 0.0}}, "ms is 0.0"),
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
