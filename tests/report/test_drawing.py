from dataclasses import replace
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from hwnas.report.data import OperatorTime, operator_times
from hwnas.report.drawing import BAR, describe, draw_network, sketch_network
from tests.report.conftest import make_space, make_table


@pytest.fixture
def operators() -> list[OperatorTime]:
    space = make_space()
    return operator_times(space, space.sample(1, 0)[0], make_table(space))


def blocks(operators: list[OperatorTime]) -> list[dict[str, float]]:
    root = ElementTree.fromstring(draw_network(operators))
    names = ("x", "y", "width", "height", "fill-opacity")
    return [{name: float(block.attrib[name]) for name in names} for block in root.iter("rect")]


def test_a_block_an_operator_from_left_to_right_within_the_picture(operators: list[OperatorTime]) -> None:
    found = blocks(operators)
    assert len(found) == len(operators)
    for one, two in pairwise(found):
        assert one["x"] + one["width"] < two["x"]
    svg = ElementTree.fromstring(draw_network(operators))
    width, height = map(float, svg.attrib["viewBox"].split()[2:])
    assert all(b["x"] + b["width"] <= width and b["y"] + b["height"] <= height for b in found)


def test_larger_is_higher_and_what_costs_more_is_fuller(operators: list[OperatorTime]) -> None:
    found = blocks(operators)
    sizes = [operator.shape[1] for operator in operators[:-1]]
    assert [b["height"] for b in found[:-1]] == sorted((b["height"] for b in found[:-1]), reverse=True)
    assert len({b["height"] for b in found[:-1]}) == len(set(sizes))
    costs = [operator.ms or 0.0 for operator in operators]
    assert found[costs.index(max(costs))]["fill-opacity"] == 1
    untimed = [replace(operator, ms=None) for operator in operators]
    macs = [operator.macs for operator in operators]
    assert blocks(untimed)[macs.index(max(macs))]["fill-opacity"] == 1


def test_stages_are_named_once(operators: list[OperatorTime]) -> None:
    svg = ElementTree.fromstring(draw_network(operators))
    names = [text.text for text in svg.iter("text") if not text.attrib["class"]]
    assert names == list(dict.fromkeys(operator.slot.partition(".")[0] for operator in operators))
    long = [replace(operators[0], slot="a<b>&" * 9)]
    assert "a&lt;b&gt;&amp;" in draw_network(long)
    assert "…" in draw_network(long)


def test_nothing_costs_anything(operators: list[OperatorTime]) -> None:
    assert {b["fill-opacity"] for b in blocks([replace(o, macs=0, ms=None) for o in operators])} == {0.12}


def test_operators_in_words() -> None:
    attributes = {"mid": 48, "k": 5, "s": 2, "act": "relu", "se": 1, "res": 0, "feat": 3}
    operator = OperatorTime("stage1.layer1", "mbconv", (8, 4, 4), attributes, 1, 1, None)
    assert describe(operator) == "mbconv, 48 inside, 5×5, stride 2, relu, SE, feat 3"
    assert describe(replace(operator, kind="classifier", attributes={})) == "classifier"


def test_a_sketch_in_text(operators: list[OperatorTime]) -> None:
    lines = sketch_network(operators).splitlines()
    assert [line.split()[0] for line in lines] == [operator.slot for operator in operators]
    for line, operator in zip(lines, operators, strict=True):
        assert line.endswith(describe(operator))
        assert "×".join(map(str, operator.shape)) in line
    bars = [line.count("█") for line in lines]
    costs = [operator.ms or 0.0 for operator in operators]
    assert bars[costs.index(max(costs))] == BAR == max(bars)
    assert "█" not in sketch_network([replace(o, macs=0, ms=None) for o in operators])
