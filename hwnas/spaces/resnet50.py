"""Once-for-All's ResNet50 space, https://arxiv.org/abs/1908.09791: a ResNet-D, https://arxiv.org/abs/1812.01187.

    resolution                 height and width of the input
    stem.block                 whether the stem has a residual block in its middle
    stem.mid                   channels of the stem's first convolutions
    stem.width                 channels of its last one
    stage1.depth  stage1.width number of bottlenecks and output channels of a stage, 1 to 4
    stage1.layer2.expand       middle channels of the second bottleneck as a share of its output channels,
                               active while the stage is that deep

Once-for-All describes a subnet by three lists, which `ofa_values` translates. Of its `d`, the first is the
stem's (`stem.block` is whether it is the largest depth) and the others are blocks beyond a stage's least, so
`stage3.depth` is 4 + `d[3]` and those of the other stages are 2 + `d[i]`. Its `e` has a ratio for each
bottleneck that there can be, in order, skipped ones included. Its `w` are positions in the list of width
multipliers: of `stem.mid`, `stem.width` and the four stages. Widths here are channels, multiples of 8; for
`stem.mid` the multipliers .65 and .8 both give 24, which is one value, so that equal networks are equal
architectures. There are 1.64e12 of them at one resolution.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from hwnas.errors import SpaceError
from hwnas.ops import Operator, make_divisible
from hwnas.spaces.base import Choice, NetworkSpace, Slot
from hwnas.spaces.checks import MOST_LAYERS, check_input, check_multiplier, is_integer, is_list


@dataclass(frozen=True)
class Stage:
    """Least number of blocks, output channels, and the stride of the first block."""

    depth: int
    width: int
    stride: int


STEM_WIDTH = 64
STAGES = {
    "stage1": Stage(2, 256, 1),
    "stage2": Stage(2, 512, 2),
    "stage3": Stage(4, 1024, 2),
    "stage4": Stage(2, 2048, 2),
}
BEFORE = dict(zip((*STAGES, "head"), ("stem", *STAGES), strict=True))
ACTIVATION = "relu"


class ResNet50Space(NetworkSpace):
    """See the module."""

    def __init__(
        self,
        widths: Sequence[float] = (0.65, 0.8, 1.0),
        ratios: Sequence[float] = (0.2, 0.25, 0.35),
        depths: Sequence[int] = (0, 1, 2),
        resolutions: Sequence[int] = (224,),
        classes: int = 1000,
        channels: int = 3,
    ) -> None:
        """`widths` multiply ResNet50's channels, `ratios` are of middle to output channels, `depths` count
        blocks beyond the stages' least; `resolutions` in pixels, `classes` and `channels` of the data.

        SpaceError for wrong ones, and for ratios that round to the same channels.
        """
        self.widths = _ascending("widths", widths, check_multiplier)
        self.ratios = _ascending("ratios", ratios, check_multiplier)
        self.depths = _ascending("depths", depths, _check_depth)
        self.resolutions = check_input(resolutions, classes, channels)
        self.classes = classes
        self.channels = channels
        stem = [make_divisible(STEM_WIDTH * width) for width in self.widths]
        self._by_width = {  # channels for each of the width multipliers
            "stem.mid": [make_divisible(width // 2) for width in stem],
            "stem.width": stem,
            **{
                f"{name}.width": [make_divisible(stage.width * width) for width in self.widths]
                for name, stage in STAGES.items()
            },
        }
        self._options: dict[str, tuple[Any, ...]] = {
            "resolution": self.resolutions,
            "stem.block": (False, True),
            **{name: tuple(sorted(set(found))) for name, found in self._by_width.items()},
        }
        self._blocks: dict[str, tuple[str, int]] = {}  # stage and 1-based layer
        self._stride_before = {"stem": 1, "stem.block": 2, "stem.pool": 2}
        stride = 4
        for name, stage in STAGES.items():
            self._options[f"{name}.depth"] = tuple(stage.depth + d for d in self.depths)
            for layer in range(1, stage.depth + self.depths[-1] + 1):
                slot = f"{name}.layer{layer}"
                self._blocks[slot] = (name, layer)
                self._options[f"{slot}.expand"] = self.ratios
                self._stride_before[slot] = stride
                stride *= stage.stride if layer == 1 else 1
        self._stride_before["head"] = stride
        self._check_ratios()
        self.slots = self._slots()
        super().__init__("resnet50", self._choices())

    @property
    def definition(self) -> dict[str, Any]:
        """The keyword arguments that make this space again, with its name."""
        return {
            "name": self.name,
            "widths": list(self.widths),
            "ratios": list(self.ratios),
            "depths": list(self.depths),
            "resolutions": list(self.resolutions),
            "classes": self.classes,
            "channels": self.channels,
        }

    def ofa_values(self, d: Sequence[int], e: Sequence[float], w: Sequence[int]) -> dict[str, Any]:
        """The values by choice name of the subnet that Once-for-All describes by these lists; see the module.

        For `architecture`, with a resolution where there is more than one. SpaceError for lists of a wrong
        length, a position in the width multipliers that there is none of, or a depth of the stem likewise.
        """
        wanted = {"d": 1 + len(STAGES), "e": len(self._blocks), "w": len(self._by_width)}
        for name, given in (("d", d), ("e", e), ("w", w)):
            if len(given) != wanted[name]:
                raise SpaceError(f"{name} has {len(given)} values, a subnet has {wanted[name]}")
        if not all(is_integer(i) and 0 <= i < len(self.widths) for i in w):
            raise SpaceError(f"w is {list(w)}; give positions in widths {self.widths}, from 0")
        if d[0] not in self.depths:
            raise SpaceError(f"d begins with {d[0]!r}, that of the stem; give one of {self.depths}")
        values: dict[str, Any] = {"stem.block": d[0] == self.depths[-1]}
        values |= {name: by_width[i] for (name, by_width), i in zip(self._by_width.items(), w, strict=True)}
        depths = zip(STAGES.items(), d[1:], strict=True)
        values |= {f"{name}.depth": stage.depth + extra for (name, stage), extra in depths}
        values |= {f"{slot}.expand": ratio for slot, ratio in zip(self._blocks, e, strict=True)}
        return {name: value for name, value in values.items() if len(self._options[name]) > 1}

    # ---- choices and slots ----------------------------------------------------------------------

    def _check_ratios(self) -> None:
        for name in STAGES:
            for width in self._options[f"{name}.width"]:
                mids = [_middle(width, ratio) for ratio in self.ratios]
                if len(set(mids)) != len(mids):
                    raise SpaceError(
                        f"ratios {self.ratios} of {width} channels ({name}) round to {mids}; "
                        "give ratios, or widths, that lie further apart"
                    )

    def _slots(self) -> tuple[Slot, ...]:
        slots = [
            Slot("stem", self._names("resolution", "stem.mid")),
            Slot("stem.block", self._names("resolution", "stem.mid", "stem.block")),
            Slot("stem.pool", self._names("resolution", "stem.mid", "stem.width")),
        ]
        for slot, (name, layer) in self._blocks.items():
            depends = ["resolution", f"{name}.depth", f"{name}.width", f"{slot}.expand"]
            if layer == 1:
                depends.append(f"{BEFORE[name]}.width")
            slots.append(Slot(slot, self._names(*depends)))
        return (*slots, Slot("head", self._names("resolution", f"{BEFORE['head']}.width")))

    def _names(self, *names: str) -> tuple[str, ...]:
        return tuple(name for name in names if len(self._options[name]) > 1)

    def _choices(self) -> list[Choice]:
        found = [
            Choice(name, self._options[name])
            for name in self._names("resolution", "stem.block", "stem.mid", "stem.width")
        ]
        for name, stage in STAGES.items():
            found += [Choice(n, self._options[n]) for n in self._names(f"{name}.depth", f"{name}.width")]
            depths = self._options[f"{name}.depth"]
            for layer in range(1, stage.depth + self.depths[-1] + 1):
                deep = tuple(depth for depth in depths if depth >= layer)
                requires = ((f"{name}.depth", deep),) if deep != depths else ()
                found += [
                    Choice(n, self._options[n], requires, f"{name}.expand")
                    for n in self._names(f"{name}.layer{layer}.expand")
                ]
        return found

    # ---- lowering -------------------------------------------------------------------------------

    def operator(self, slot: str, values: Mapping[str, Any], precision: str = "fp32") -> Operator | None:
        def value(name: str) -> Any:
            options = self._options[name]
            return values[name] if len(options) > 1 else options[0]

        size = -(-value("resolution") // self._stride_before[slot])

        def block(kind: str, channels: int, out: int, stride: int, **attributes: int | str) -> Operator:
            out_shape = (out, -(-size // stride), -(-size // stride))
            return Operator(kind, (channels, size, size), out_shape, tuple(attributes.items()), precision)

        if slot == "stem":
            return block("conv", self.channels, value("stem.mid"), 2, k=3, s=2, act=ACTIVATION)
        if slot == "stem.block":
            if not value("stem.block"):
                return None
            return block("conv", value("stem.mid"), value("stem.mid"), 1, k=3, s=1, act=ACTIVATION, res=1)
        if slot == "stem.pool":
            return block("convpool", value("stem.mid"), value("stem.width"), 2, k=3, act=ACTIVATION)
        if slot == "head":
            shape = (value(f"{BEFORE['head']}.width"), size, size)
            return Operator("classifier", shape, (self.classes,), (), precision)
        name, layer = self._blocks[slot]
        if layer > value(f"{name}.depth"):
            return None
        out = value(f"{name}.width")
        first = layer == 1
        channels = value(f"{BEFORE[name]}.width") if first else out
        stride = STAGES[name].stride if first else 1
        mid = _middle(out, value(f"{slot}.expand"))
        return block(
            "bottleneck", channels, out, stride, mid=mid, k=3, s=stride, act=ACTIVATION, res=int(not first)
        )


def _middle(channels: int, ratio: float) -> int:
    return make_divisible(round(channels * ratio))


def _check_depth(where: str, value: Any) -> int:
    if not is_integer(value) or not 0 <= value <= MOST_LAYERS:
        raise SpaceError(f"{where}: give integers of 0 to {MOST_LAYERS:,}, got {value!r}")
    return int(value)


Number = TypeVar("Number", int, float)


def _ascending(where: str, values: Any, check: Callable[[str, Any], Number]) -> tuple[Number, ...]:
    """Checked numbers, ascending, each once."""
    if not is_list(values) or not values:
        raise SpaceError(f"{where} is a list of one or more numbers, got {values!r}")
    return tuple(sorted({check(where, value) for value in values}))
