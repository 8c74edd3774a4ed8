"""Spaces of a stage table: stem, stages of MBConv, fused MBConv or basic blocks, a head.

A list of several values in the table makes a choice, a single value is fixed:

    stem.width                     stem output channels
    resolution                     height and width of the input
    stage1.width  stage1.depth     output channels and number of blocks of a stage
    stage1.layer2.kernel .expand   of the second block, active while the stage is that deep

The first block of a stage carries the stride and the change of width; the others are residual. Where those
are ResNet's basic blocks (https://arxiv.org/abs/1512.03385), the first is one convolution, with max pooling
behind it for a stride of 2 (as in https://myrtle.ai/learn/how-to-train-your-resnet/), and has no `expand`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any, TypeVar

from hwnas.errors import SpaceError, known_names
from hwnas.ops import ACTIVATIONS, NORM_EPS, Operator, make_divisible
from hwnas.spaces.base import Choice, NetworkSpace, Slot
from hwnas.spaces.checks import (
    MOST,
    MOST_LAYERS,
    check_input,
    check_multiplier,
    integers,
    is_integer,
    is_list,
)

BLOCKS = ("mbconv", "fused", "basic")

# Of the kinds of operators that a stage is made of, in the order of their keys.
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "conv": ("k", "s", "act"),
    "convpool": ("k", "act"),
    "basic": ("mid", "k", "act"),
    "dsconv": ("k", "s", "act", "se", "res"),
    "fused": ("mid", "k", "s", "act", "se", "res"),
    "mbconv": ("mid", "k", "s", "act", "se", "res"),
}


@dataclass(frozen=True)
class Stem:
    """A strided convolution. `width` in channels."""

    width: tuple[int, ...]
    kernel: int = 3
    stride: int = 2
    activation: str = "hswish"


@dataclass(frozen=True)
class Stage:
    """A row of the stage table. An MBConv stage whose only expansion is 1 has no expanding convolution."""

    block: str
    width: tuple[int, ...]
    depth: tuple[int, ...]
    kernel: tuple[int, ...]
    expand: tuple[int, ...]
    stride: int = 1
    activation: str = "relu"
    se: bool = False
    name: str = ""

    def kind(self, layer: int) -> str:
        """Of the operator of a 1-based layer."""
        if self.block == "basic" and layer == 1:
            return "convpool" if self.stride == 2 else "conv"
        return "dsconv" if self.block == "mbconv" and self.expand == (1,) else self.block

    def fields(self, layer: int) -> tuple[str, ...]:
        """What the block of a 1-based layer has values of."""
        return ("kernel", "expand") if "mid" in ATTRIBUTES[self.kind(layer)] else ("kernel",)


@dataclass(frozen=True)
class Head:
    """1×1 convolution to `width` channels, mean, 1×1 convolution to `features` (0: none), classifier."""

    width: int
    features: int = 0
    activation: str = "hswish"


class StageTableSpace(NetworkSpace):
    """See the module. Abstract: a subclass is a family of networks, with its name and its table."""

    norm_eps = NORM_EPS

    def __init__(
        self,
        name: str,
        width: float,
        resolutions: Sequence[int],
        stem: Mapping[str, Any],
        stages: Sequence[Mapping[str, Any]],
        head: Mapping[str, Any],
        classes: int,
        channels: int,
    ) -> None:
        """`resolutions` in pixels, `classes` and `channels` of the data; SpaceError for a wrong table.

        `width` multiplies every width; channels are rounded to multiples of 8.
        """
        check_multiplier("width multiplies every width", width)
        if not is_list(stages):
            raise SpaceError(f"stages is a list of rows, one a stage, got {stages!r}")
        self.stem = _row(Stem, "stem", stem, width)
        self.head = _row(Head, "head", head, width)
        if not stages:
            raise SpaceError("stages is empty; give at least one stage")
        rows = [_row(Stage, f"stages[{i}]", stage, width) for i, stage in enumerate(stages)]
        self.stages = dict(zip(_names_of(rows), rows, strict=True))
        self.resolutions = check_input(resolutions, classes, channels)
        self.classes = classes
        self.channels = channels
        self._check()
        self._plan()
        super().__init__(name, self._choices())

    @property
    def definition(self) -> dict[str, Any]:
        """The keyword arguments that make this space again, widths multiplied, with its name."""
        return {
            "name": self.name,
            "resolutions": list(self.resolutions),
            "stem": asdict(self.stem),
            "stages": [{**asdict(stage), "name": name} for name, stage in self.stages.items()],
            "head": asdict(self.head),
            "classes": self.classes,
            "channels": self.channels,
        }

    # ---- from the table to choices and slots ----------------------------------------------------

    def _check(self) -> None:
        for name, stage in self.stages.items():
            if stage.block not in BLOCKS:
                raise SpaceError(f"{name}: unknown block {stage.block!r}; {known_names(stage.block, BLOCKS)}")
            if any(kernel % 2 == 0 for kernel in stage.kernel):
                raise SpaceError(f"{name}: kernels are odd, got {stage.kernel}")
            if stage.block == "basic" and (stage.se or stage.stride > 2):
                raise SpaceError(
                    f"{name}: basic blocks have strides of 1 or 2 and no squeeze-and-excite, got stride "
                    f"{stage.stride}, se {stage.se}; change them, or use fused blocks"
                )
        if self.stem.kernel % 2 == 0:
            raise SpaceError(f"stem: kernels are odd, got {self.stem.kernel}")
        for name, activation in [
            ("stem", self.stem.activation),
            ("head", self.head.activation),
            *((name, stage.activation) for name, stage in self.stages.items()),
        ]:
            if activation not in ACTIVATIONS:
                raise SpaceError(
                    f"{name}: unknown activation {activation!r}; {known_names(activation, ACTIVATIONS)}"
                )

    def _plan(self) -> None:
        """Where each block stands: (stage name, stage, 1-based layer, width before, stride before)."""
        self._blocks: dict[str, tuple[str, Stage, int]] = {}
        self._before: dict[str, tuple[str, tuple[int, ...]]] = {}
        self._stride_before: dict[str, int] = {"stem": 1}
        slots = [Slot("stem", self._names("resolution", "stem.width"))]
        before, widths, stride = "stem", self.stem.width, self.stem.stride
        for name, stage in self.stages.items():
            self._before[name] = (f"{before}.width", widths)
            for layer in range(1, max(stage.depth) + 1):
                slot = f"{name}.layer{layer}"
                self._blocks[slot] = (name, stage, layer)
                self._stride_before[slot] = stride
                depends = ["resolution", f"{name}.depth", f"{name}.width"]
                depends += [f"{slot}.{field}" for field in stage.fields(layer)]
                if layer == 1:
                    depends.append(f"{before}.width")
                    stride *= stage.stride
                slots.append(Slot(slot, self._names(*depends)))
            before, widths = name, stage.width
        self._before["head"] = (f"{before}.width", widths)
        self._stride_before["head"] = stride
        slots.append(Slot("head", self._names("resolution", f"{before}.width")))
        self.slots = tuple(slots)

    def _options(self, choice: str) -> tuple[int, ...]:
        """The values that a name of the module's list can take in this table."""
        if choice == "resolution":
            return self.resolutions
        place, field = choice.rsplit(".", 1)
        if place == "stem":
            return self.stem.width
        stage = self.stages[place.split(".")[0]]
        return tuple(getattr(stage, field))

    def _names(self, *names: str) -> tuple[str, ...]:
        return tuple(name for name in names if len(self._options(name)) > 1)

    def _choices(self) -> list[Choice]:
        found = [Choice(name, self._options(name)) for name in self._names("resolution", "stem.width")]
        for name, stage in self.stages.items():
            found += [Choice(n, self._options(n)) for n in self._names(f"{name}.width", f"{name}.depth")]
            for layer in range(1, max(stage.depth) + 1):
                deep = tuple(d for d in stage.depth if d >= layer)
                requires = ((f"{name}.depth", deep),) if deep != stage.depth else ()
                found += [
                    Choice(f"{name}.layer{layer}.{field}", getattr(stage, field), requires, f"{name}.{field}")
                    for field in stage.fields(layer)
                    if len(getattr(stage, field)) > 1
                ]
        # A table of a single network has one choice of one value: a space needs a choice.
        return found or [Choice("resolution", self.resolutions)]

    # ---- lowering -------------------------------------------------------------------------------

    def operator(self, slot: str, values: Mapping[str, Any], precision: str = "fp32") -> Operator | None:
        def value(name: str) -> int:
            options = self._options(name)
            return int(values[name]) if len(options) > 1 else options[0]

        size = -(-value("resolution") // self._stride_before[slot])
        if slot == "stem":
            out = value("stem.width")
            attributes = (("k", self.stem.kernel), ("s", self.stem.stride), ("act", self.stem.activation))
            return self._operator("conv", self.channels, out, size, self.stem.stride, attributes, precision)
        if slot == "head":
            channels = value(self._before["head"][0])
            head = self.head
            shape = (("mid", head.width), ("feat", head.features), ("act", head.activation))
            shape_in = (channels, size, size)
            return Operator("head", shape_in, (self.classes,), shape, precision, self.norm_eps)
        name, stage, layer = self._blocks[slot]
        if layer > value(f"{name}.depth"):
            return None
        out = value(f"{name}.width")
        before, widths = self._before[name]
        channels = value(before) if layer == 1 else out
        stride = stage.stride if layer == 1 else 1
        # The first block is residual only where its widths are fixed and equal: what is skipped must not
        # depend on the architecture, or shared weights would serve two different functions.
        residual = layer > 1 or (stride == 1 and widths == stage.width and len(widths) == 1)
        found: dict[str, int | str] = {
            "k": value(f"{slot}.kernel"),
            "s": stride,
            "act": stage.activation,
            "se": int(stage.se),
            "res": int(residual),
        }
        if "expand" in stage.fields(layer):
            found["mid"] = make_divisible(channels * value(f"{slot}.expand"))
        kind = stage.kind(layer)
        own = tuple((field, found[field]) for field in ATTRIBUTES[kind])
        return self._operator(kind, channels, out, size, stride, own, precision)

    def _operator(
        self,
        kind: str,
        channels: int,
        out: int,
        size: int,
        stride: int,
        attributes: tuple[tuple[str, int | str], ...],
        precision: str,
    ) -> Operator:
        out_size = -(-size // stride)
        in_shape, out_shape = (channels, size, size), (out, out_size, out_size)
        return Operator(kind, in_shape, out_shape, attributes, precision, self.norm_eps)


RESERVED = ("stem", "head", "resolution")


def _names_of(rows: Sequence[Stage]) -> list[str]:
    """The stages' names, unnamed ones numbered; SpaceError where two are alike or one is taken."""
    numbered = iter(range(1, len(rows) + 1))
    names = [stage.name or f"stage{next(numbered)}" for stage in rows]
    for i, name in enumerate(names):
        if not name.isidentifier() or name in RESERVED:
            raise SpaceError(
                f"stages[{i}].name: {name!r} cannot name a stage; give letters, digits and underscores, "
                f"and none of {', '.join(RESERVED)}"
            )
        if name in names[:i]:
            raise SpaceError(
                f"stages[{i}] is named {name!r} as stages[{names.index(name)}] is (unnamed stages are "
                "stage1, stage2 and so on); give each stage a name of its own"
            )
    return names


Row = TypeVar("Row", Stem, Stage, Head)


def _row(cls: type[Row], where: str, row: Mapping[str, Any], width: float) -> Row:
    """A row of the table from plain data, its fields checked and its widths multiplied and rounded."""
    if not isinstance(row, Mapping):
        raise SpaceError(f"{where} is fields and their values, got {row!r}")
    known = {f.name: f for f in fields(cls)}
    unknown = [name for name in row if name not in known]
    if unknown:
        raise SpaceError(f"{where}: unknown field {unknown[0]!r}; {known_names(unknown[0], known)}")
    parsed: dict[str, Any] = {}
    for name, f in known.items():
        if name not in row:
            if f.default is MISSING:
                raise SpaceError(f"{where}: {name} is missing")
            continue
        value = row[name]
        most = MOST_LAYERS if name == "depth" else MOST
        parsed[name] = integers(f"{where}.{name}", value, most) if "tuple" in str(f.type) else value
        least = int(name != "features")
        if str(f.type) == "int" and (not is_integer(value) or not least <= value <= MOST):
            raise SpaceError(f"{where}.{name}: give an integer of {least} to {MOST:,}, got {value!r}")
        if str(f.type) == "bool" and not isinstance(value, bool):
            raise SpaceError(f"{where}.{name}: give true or false, got {value!r}")
        if str(f.type) == "str" and not isinstance(value, str):
            raise SpaceError(f"{where}.{name}: give a string, got {value!r}")
    if width != 1.0:
        for name in {"width", "features"} & parsed.keys():
            value = parsed[name]
            parsed[name] = (
                tuple(make_divisible(v * width) for v in value)
                if isinstance(value, tuple)
                else make_divisible(value * width)
            )
    return cls(**parsed)
