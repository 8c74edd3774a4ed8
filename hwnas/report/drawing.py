"""A network as a drawing: its operators side by side, stage by stage."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from xml.etree import ElementTree

from hwnas.report.data import OperatorTime

TALLEST = 72.0
GAP, STAGE_GAP = 2.0, 10.0
LETTER = 5.6  # width of one, about
LONGEST_NAME = 12
BAR = 12  # letters of the longest bar of a sketch


def draw_network(operators: Sequence[OperatorTime]) -> str:
    """The operators as an `<svg>` for the inside of an HTML page, in the page's variables for colours.

    The height of a block is the square root of its output's, its width the logarithm of the channels; it is
    the fuller the more of the network's time it takes, or of the MACs where no table says the time.
    """
    largest = max(_size(operator) for operator in operators)
    costs = [cost(operator) for operator in operators]
    heaviest = max(costs) or 1.0
    root = ElementTree.Element("svg", {"class": "network", "role": "img", "aria-label": "the network"})
    x = 1.0
    for stage, group in groupby(zip(operators, costs, strict=True), key=lambda item: stage_of(item[0])):
        start = x
        for operator, value in (members := list(group)):
            width = 5 + 3 * math.log2(operator.shape[0] + 1)
            height = 7 + (TALLEST - 7) * math.sqrt(_size(operator) / largest)
            block = ElementTree.SubElement(
                root, "rect", _numbers(x, 1 + (TALLEST - height) / 2, width, height)
            )
            block.set("fill-opacity", f"{0.12 + 0.88 * value / heaviest:.2f}")
            ElementTree.SubElement(block, "title").text = f"{operator.slot}: {describe(operator)}"
            x += width + GAP
        name = stage if len(stage) <= LONGEST_NAME else stage[: LONGEST_NAME - 1] + "…"
        channels, *size = members[-1][0].shape
        lines = [name, "×".join(map(str, size)), f"{channels} ch"] if size else [name, f"{channels} out"]
        x = max(x - GAP, start + LETTER * max(map(len, lines)))
        for line, text in enumerate(lines):
            where = {
                "x": f"{start:.1f}",
                "y": f"{TALLEST + 15 + 11 * line:.0f}",
                "class": "size" if line else "",
            }
            ElementTree.SubElement(root, "text", where).text = text
        x += STAGE_GAP
    width = x - STAGE_GAP + 1
    root.set("viewBox", f"0 0 {width:.0f} {TALLEST + 42:.0f}")
    root.set("style", f"--width: {width:.0f}px")
    return ElementTree.tostring(root, encoding="unicode")


def sketch_network(operators: Sequence[OperatorTime]) -> str:
    """The operators in lines of text: where each is, its output, what it is, and a bar of what it costs."""
    heaviest = max(cost(operator) for operator in operators) or 1.0
    cells = [
        (o.slot, "×".join(map(str, o.shape)), "█" * round(BAR * cost(o) / heaviest), describe(o))
        for o in operators
    ]
    wide = [max(len(row[column]) for row in cells) for column in range(3)]
    return "\n".join(
        f"{slot:{wide[0]}}  {shape:>{wide[1]}}  {bar:{wide[2]}}  {what}" for slot, shape, bar, what in cells
    )


def stage_of(operator: OperatorTime) -> str:
    """The stage that an operator belongs to: its slot up to the first dot."""
    return operator.slot.partition(".")[0]


def cost(operator: OperatorTime) -> float:
    """What an operator takes of the network's time, or of its MACs where no table says the time."""
    return float(operator.macs if operator.ms is None else operator.ms)


def describe(operator: OperatorTime) -> str:
    """An operator in words, such as: mbconv, 5×5, stride 2, 96 inside, SE, relu."""
    words = [operator.kind]
    for name, value in operator.attributes.items():
        if name == "k":
            words.append(f"{value}×{value}")
        elif name == "s":
            words += [f"stride {value}"] if value != 1 else []
        elif name in ("se", "res"):
            words += [{"se": "SE", "res": "residual"}[name]] if value else []
        elif name == "mid":
            words.append(f"{value} inside")
        elif name == "act":
            words.append(str(value))
        else:
            words.append(f"{name} {value}")
    return ", ".join(words)


def _size(operator: OperatorTime) -> int:
    return operator.shape[1] if len(operator.shape) == 3 else 1


def _numbers(x: float, y: float, width: float, height: float) -> dict[str, str]:
    values = {"x": x, "y": y, "width": width, "height": height, "rx": 2.0}
    return {name: f"{value:.1f}" for name, value in values.items()}
