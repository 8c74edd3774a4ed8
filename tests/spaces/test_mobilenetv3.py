"""The stage-table space, its operators and the look-ups over them."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwnas.errors import SpaceError
from hwnas.spaces import NetworkSpace, Operator, OperatorSum, get_space, space_of

SMALL: dict[str, Any] = {
    "resolutions": (16, 20, 24),
    "channels": 1,
    "classes": 10,
    "stem": {"width": [8, 16], "activation": "relu"},
    "stages": [
        {"block": "fused", "width": [8, 12, 16], "depth": [1, 2], "kernel": 3, "expand": [1, 2, 3]},
        {
            "block": "mbconv",
            "width": [16, 24],
            "depth": [1, 2, 3],
            "kernel": [3, 5],
            "expand": [2, 3],
            "stride": 2,
            "se": True,
            "activation": "hswish",
        },
    ],
    "head": {"width": 96, "activation": "relu"},
}


def small() -> NetworkSpace:
    return get_space("mobilenetv3", **SMALL)


@pytest.mark.parametrize(
    ("width", "index", "params", "macs"),
    [(1.0, -1, 7.665, 566.2), (1.0, 0, 3.411, 121.3), (1.2, -1, 10.702, 843.1), (1.2, 0, 4.602, 193.1)],
)
def test_once_for_all_counts(width: float, index: int, params: float, macs: float) -> None:
    space = get_space("mobilenetv3", width=width)
    genotype = (space.cardinalities - 1 if index else 0 * space.cardinalities)[None]
    archs = space.architectures(genotype)
    assert round(space.params(archs)[0] / 1e6, 3) == params
    assert round(space.macs(archs)[0] / 1e6, 1) == macs


def test_once_for_all_space() -> None:
    space = get_space("mobilenetv3")
    assert f"{space.size:.2e}" == "2.18e+19"
    assert len(space.all_operators()) == 93
    names = [choice.name for choice in space.choices]
    assert names[:3] == ["stage1.depth", "stage1.layer1.kernel", "stage1.layer1.expand"]
    assert names[-1] == "stage5.layer4.expand"
    assert "resolution" not in names
    assert get_space("mobilenetv3", resolutions=(128, 224)).choices[0].name == "resolution"
    assert space.input_shape == (3, 224, 224)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32))
def test_vectorised_sums_equal_a_loop_over_operators(seed: int) -> None:
    for space in (small(), get_space("mobilenetv3", resolutions=(96, 128))):
        archs = space.sample(4, seed)
        assert space.macs(archs).tolist() == [sum(op.macs for op in space.operators(a)) for a in archs]
        assert space.params(archs).tolist() == [sum(op.params for op in space.operators(a)) for a in archs]
        weights = {op.key: float(i) for i, op in enumerate(space.all_operators())}
        summed = OperatorSum(space, lambda op, weights=weights: weights[op.key])
        assert summed(archs).tolist() == [sum(weights[o.key] for o in space.operators(a)) for a in archs]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32))
def test_operators_form_a_chain_from_the_input_to_the_classes(seed: int) -> None:
    space = small()
    known = set(space.all_operators())
    for arch in space.sample(3, seed):
        operators = space.operators(arch)
        size = arch.values["resolution"]
        assert operators[0].in_shape == (1, size, size)
        assert space.resolution(arch) == size
        assert operators[-1].out_shape == (10,)
        for before, after in itertools.pairwise(operators):
            assert before.out_shape == after.in_shape
        for op in operators:
            assert op in known
            assert op.graph.output.shape == op.out_shape
            assert not op.residual or op.in_shape == op.out_shape
            assert Operator.parse(op.key) == op


def test_key_has_the_documented_form() -> None:
    op = Operator(
        "mbconv",
        (16, 64, 64),
        (24, 32, 32),
        (("mid", 64), ("k", 3), ("s", 2), ("act", "relu"), ("se", 0), ("res", 0)),
    )
    assert op.key == "mbconv-in:64x64x16-out:32x32x24-mid:64-k:3-s:2-act:relu-se:0-res:0-p:fp32"


@pytest.mark.parametrize(
    "key",
    [
        "",
        "mbconv",
        "nonsense-in:8x8x8-out:8x8x8-p:fp32",
        "conv-in:8x8x8-out:8x8x8-k:3-s:2-act:relu-p:fp32",
        "conv-in:8x8x8-out:4x4x8-k:3-s:2-act:relu-p:fp99",
        "conv-in:8x8x8-out:4x4x8-k:3-s:0-act:relu-p:fp32",
        "conv-out:4x4x8-in:8x8x8-k:3-s:2-act:relu-p:fp32",
        "conv-in:8x8x8-out:4x4x8-s:2-act:relu-p:fp32",
    ],
)
def test_wrong_keys_are_refused(key: str) -> None:
    with pytest.raises(SpaceError, match=r"key of|unknown kind"):
        Operator.parse(key)


def test_definition_makes_the_space_again() -> None:
    for space in (small(), get_space("mobilenetv3", width=1.2, resolutions=(160,))):
        again = space_of(space.definition)
        assert again == space
        assert again.definition == space.definition
    wide = get_space("mobilenetv3", classes=10)
    assert wide != get_space("mobilenetv3")  # the same choices, other networks


def changed(**fields: Any) -> dict[str, Any]:
    return {**SMALL, "stages": [{**SMALL["stages"][0], **fields}]}


def named(*names: str) -> dict[str, Any]:
    stages = zip(SMALL["stages"], names, strict=True)
    return {**SMALL, "stages": [{**stage, "name": name} for stage, name in stages]}


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (changed(kernel=[3, 4]), "kernels are odd"),
        (changed(width=[]), r"stages\[0\]\.width is one or more integers of 1 to 100,000"),
        (changed(depth=[0, 1]), r"stages\[0\]\.depth is one or more integers of 1 to 1,000, got \[0, 1\]"),
        (changed(block="resnet"), "unknown block 'resnet'"),
        (changed(activation="gelu"), "unknown activation 'gelu'"),
        (changed(strid=2), r"stages\[0\]: unknown field 'strid'"),
        (changed(stride=0), r"stages\[0\]\.stride: give an integer of 1 to 100,000, got 0"),
        (changed(stride=True), r"stages\[0\]\.stride: give an integer of 1 to 100,000, got True"),
        (changed(name="head"), r"stages\[0\]\.name: 'head' cannot name a stage"),
        (changed(name="a.b"), r"stages\[0\]\.name: 'a.b' cannot name a stage; give letters"),
        (changed(name=5), r"stages\[0\]\.name: give a string, got 5"),
        (changed(se="maybe"), r"stages\[0\]\.se: give true or false, got 'maybe'"),
        (changed(se=1), r"stages\[0\]\.se: give true or false, got 1"),
        (changed(block="basic", stride=3), "stage1: basic blocks have strides of 1 or 2 .* got stride 3"),
        (
            changed(block="basic", se=True),
            "stage1: basic blocks .* no squeeze-and-excite, .* se True; change",
        ),
        (
            changed(depth=[10**9]),
            r"stages\[0\]\.depth is one or more integers of 1 to 1,000, got \[1000000000\]",
        ),
        (changed(depth=[True]), r"stages\[0\]\.depth is one or more integers of 1 to 1,000, got \[True\]"),
        (changed(activation=["relu"]), r"stages\[0\]\.activation: give a string"),
        (named("a", "a"), r"stages\[1\] is named 'a' as stages\[0\] is .*; give each stage a name"),
        (named("stage1", ""), r"stages\[1\] is named 'stage1' as stages\[0\]"),
        (named("", "stage1"), r"stages\[1\] is named 'stage1' as stages\[0\]"),
        ({**SMALL, "stages": 3}, "stages is a list of rows"),
        ({**SMALL, "stages": [3]}, r"stages\[0\] is fields and their values, got 3"),
        ({**SMALL, "head": {"width": 8, "features": -1}}, "head.features: give an integer of 0 to 100,000"),
        *(({**SMALL, "width": w}, "width .* give a finite positive") for w in (0, -1.0, True, "wide")),
        *(({**SMALL, "width": w}, "width .* give a finite positive") for w in (math.nan, math.inf)),
        ({**SMALL, "classes": True}, "classes: give integers of 1 to 100,000, got True"),
        ({**SMALL, "channels": 1.0}, r"channels: give integers of 1 to 100,000, got 1\.0"),
        ({**SMALL, "resolutions": [True]}, "resolutions: give integers of 1 to 100,000, got True"),
        ({**SMALL, "resolutions": ["32"]}, "resolutions: give integers of 1 to 100,000, got '32'"),
        ({**SMALL, "resolutions": 32}, r"resolutions is a list of pixels, such as \[160, 192\], got 32"),
        ({**SMALL, "stages": []}, "stages is empty"),
        ({**SMALL, "stem": {}}, "stem: width is missing"),
        ({**SMALL, "resolutions": []}, "resolutions is empty"),
        ({**SMALL, "resolutions": [0]}, "resolutions: give integers of 1 to 100,000, got 0"),
        ({"widht": 1.0}, "widht"),
    ],
)
def test_wrong_tables_are_refused(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(SpaceError, match=message):
        get_space("mobilenetv3", **parameters)


def test_unknown_space() -> None:
    with pytest.raises(SpaceError, match="unknown space 'resnet'; known: mobilenetv3, proxyless, resnet50"):
        get_space("resnet")


def test_residual_never_depends_on_the_architecture() -> None:
    for space in (small(), get_space("mobilenetv3")):
        for slot in space.slots:
            held = [op.residual for op in space.slot_operators(slot).values() if op]
            assert len(set(held)) == 1


def test_an_architecture_of_another_space_is_refused() -> None:
    arch = get_space("mobilenetv3").sample(1, 0)[0]
    with pytest.raises(SpaceError, match="not of mobilenetv3"):
        small().operators(arch)
    assert np.all(small().sample(3, 0).genotypes[:, 0] < 3)


def test_a_stage_of_basic_blocks_begins_with_a_convolution_which_does_not_expand() -> None:
    row = {"block": "basic", "width": [8, 16], "depth": [1, 2], "kernel": [3, 5], "expand": [1, 2]}
    space = get_space("mobilenetv3", **{**SMALL, "stages": [{**row, "stride": 2}, row]})
    arch = space.architectures((space.cardinalities - 1)[None])[0]
    kinds = [operator.kind for operator in space.operators(arch)]
    assert kinds == ["conv", "convpool", "basic", "conv", "basic", "head"]
    assert [operator.residual for operator in space.operators(arch)] == [k == "basic" for k in kinds]
    assert [choice.name for choice in space.choices if choice.name.startswith("stage1.layer")] == [
        "stage1.layer1.kernel",
        "stage1.layer2.kernel",
        "stage1.layer2.expand",
    ]
    basic = space.operators(arch)[2]
    assert basic.key == "basic-in:6x6x16-out:6x6x16-mid:32-k:5-act:relu-p:fp32"
    assert basic.macs == 2 * 16 * 32 * 25 * 36
