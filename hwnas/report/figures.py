"""The figures of a report. Each takes the data and returns a figure, or None where there is nothing to show.

Colours come from `PALETTE` only (after Okabe and Ito, https://jfly.uni-koeln.de/color/, safe for the colour
blind), so that a page which inlines the SVG can put its own, light or dark, in their place. What stands for
an architecture is a **mark**, which the page explains: the gid of an artist is ``marks:`` and the ids of what
it draws, in order, as JSON.
"""

from __future__ import annotations

import io
import json
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.dates import ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from hwnas.report.data import (
    Agreement,
    ReportData,
    accuracy_agreement,
    latency_agreement,
    models_frame,
    repeats,
    stride,
    thinned,
    timed_model,
    traits_of_models,
)

PALETTE = {
    "ink": "#1c2128",
    "muted": "#636c76",
    "line": "#d9dee3",
    "faint": "#b4bcc5",
    "paper": "#fefefe",
    "front": "#0072b2",
    "cloud": "#56b4e9",
    "budget": "#d55e00",
    "second": "#e69f00",
}
SIZE = (5.0, 3.55)  # inches
PANEL = (1.4, 0.95)  # inches, of one of many
COMPARABLE = 8  # times the smallest value is the largest, at most, where panels share a scale
BAR = 0.2  # inches, of one of many
DPI = 200
SIGNS = {"model": ("o", "front"), "fine-tuned": ("^", "front"), "in 8 bits": ("D", "second")}
_MARKS = "marks:"
_DRAWN = ("use", "path")  # what matplotlib makes of a marker
# How matplotlib says the font of a text; older versions in the short form.
FONT = r"font: (?:(\d+) )?([\d.]+)px [^;\"]*|font-size: ([\d.]+)px; font-family: [^;\"]*"


def front(data: ReportData) -> Figure | None:
    """Every evaluated architecture, the models, connected where none is slower and worse, and the budgets."""
    seen, models = data.evaluations.dropna(subset=["accuracy", "latency_ms"]), models_frame(data.models)
    if seen.empty and models.empty:
        return None
    figure, (axes,) = _figure("Accuracy against latency", "latency, ms", "validation accuracy, %")
    shown = thinned(data.evaluations).dropna(subset=["accuracy", "latency_ms"])
    shown = shown[~shown["id"].isin(models["id"])]
    feasible = shown["feasible"].astype(bool)
    for part, colour, label in (
        (shown[~feasible], "faint", "over budget"),
        (shown[feasible], "cloud", "evaluated"),
    ):
        _marks(axes, part, "latency_ms", "accuracy", PALETTE[colour], label)
    if not models.empty:
        better = models[models["validation"] > models["validation"].cummax().shift(fill_value=-np.inf)]
        axes.plot(better["latency_ms"], better["validation"], color=PALETTE["front"], lw=1.6, zorder=3)
    _models(axes, models, "latency_ms", "validation")
    if len(seen) > 1:
        points = seen.sort_values("macs")[["latency_ms", "accuracy"]].to_numpy(float)
        _note(axes, points[0], "smallest")
        _note(axes, points[-1], "largest")
    for knee in models[models["id"] == data.knee].to_dict("records"):
        _note(axes, np.array([knee["latency_ms"], knee["validation"]]), "knee")
    low, high = axes.get_xlim()
    near = [b for b in data.budgets_ms if low - (high - low) / 4 < b < high + (high - low) / 4]
    for budget in near:
        axes.axvline(budget, color=PALETTE["budget"], lw=1.1, ls=(0, (5, 3)), zorder=1)
        axes.annotate(
            f"{budget:g} ms", (budget, 0), (-3, 5), xycoords=axes.get_xaxis_transform(), rotation=90,
            textcoords="offset points", ha="right", va="bottom", color=PALETTE["budget"], fontsize=9,
        )  # fmt: skip
    _legend(axes)
    return figure


def latency(data: ReportData) -> Figure | None:
    """The models' latency: predicted by the table against measured."""
    found = latency_agreement(data)
    models = models_frame(data.models).dropna(subset=["measured_ms", "predicted_ms"])
    if found is None:
        return None
    figure, (axes,) = _figure("Is the table right?", "latency predicted, ms", "latency measured, ms")
    low, high = _diagonal(axes, models["predicted_ms"], models["measured_ms"])
    ends = np.array([low, high])
    axes.fill_between(
        ends, ends * 0.9, ends * 1.1, color=PALETTE["faint"], alpha=0.28, lw=0, label="within ±10 %"
    )
    axes.vlines(models["predicted_ms"], models["ci_low"], models["ci_high"], color=PALETTE["front"], lw=1.2)
    _models(axes, models, "predicted_ms", "measured_ms")
    _agreement(axes, found, "median error {0.median_error:.1f} %\nMAPE {0.mean_error:.1f} %")
    _legend(axes)
    return figure


def drift(data: ReportData) -> Figure | None:
    """The models' latency on the run's device from one verification to the next."""
    found = repeats(data)
    if found.empty:
        return None
    figure, (axes,) = _figure("Does it stay that way?", "verified on", "latency, % of the first time")
    for _, model in found.groupby("id", sort=False):
        axes.plot(model["date"], model["percent"], color=PALETTE["faint"], lw=1, zorder=1)
    for disturbed, colour, label in ((False, "front", "a model"), (True, "budget", "disturbed")):
        part = found[found["disturbed"] == disturbed]
        _marks(axes, part, "date", "percent", PALETTE[colour], label)
    axes.axhline(100, color=PALETTE["muted"], lw=1, zorder=0)
    locator = axes.xaxis.get_major_locator()
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    _legend(axes)
    return figure


def accuracy(data: ReportData) -> Figure | None:
    """Accuracy by a predictor that has not seen an evaluation, against its outcome."""
    found = accuracy_agreement(data)
    if found is None:
        return None
    seen = thinned(data.evaluations).dropna(subset=["predicted_accuracy", "accuracy"])
    figure, (axes,) = _figure("Is the predictor right?", "accuracy predicted, %", "accuracy evaluated, %")
    _diagonal(axes, seen["predicted_accuracy"], seen["accuracy"])
    _marks(axes, seen, "predicted_accuracy", "accuracy", PALETTE["front"])
    _agreement(axes, found, "median error {0.median_error:.2f} points\nmean {0.mean_error:.2f} points")
    return figure


def hypervolume(data: ReportData) -> Figure | None:
    """Hypervolume after each evaluation, beside random search."""
    traces = {strategy: trace for strategy, trace in data.hypervolume.items() if len(trace)}
    if not traces:
        return None
    figure, (axes,) = _figure("What the search gained", "architectures evaluated", "hypervolume")
    for strategy, trace in traces.items():
        random, step = strategy == "random", stride(len(trace))
        colour = PALETTE["muted" if random else "front"]
        axes.step(
            range(1, len(trace) + 1, step), trace[::step], where="post", label=strategy, color=colour,
            lw=1.4 if random else 2, ls="--" if random else "-", zorder=2 if random else 3,
        )  # fmt: skip
        axes.plot(len(trace), trace[-1], "o", ms=4, color=colour)
    # The first evaluations climb from nothing; the differences that matter come after them.
    starts = [trace[min(len(trace) // 20, len(trace) - 1)] for trace in traces.values()]
    ends = [trace[-1] for trace in traces.values()]
    if max(ends) > min(starts):
        margin = (max(ends) - min(starts)) / 15
        axes.set_ylim(min(starts) - margin, max(ends) + margin)
    _legend(axes)
    return figure


def training(data: ReportData) -> Figure | None:
    """Loss, and the accuracy of the largest and the smallest subnet, by training step."""
    history = pd.DataFrame(list(data.training)).reindex(
        columns=["step", "loss", "largest_accuracy", "smallest_accuracy"]
    )
    if len(history) < 2:
        return None
    has_accuracy = history["largest_accuracy"].notna().any()
    figure, axes = _figure(
        "Training the supernet", "step", *(["accuracy, %"] if has_accuracy else []), "loss"
    )
    for column, colour in (("largest_accuracy", "front"), ("smallest_accuracy", "second")):
        line = history.dropna(subset=[column])
        if len(line):
            label = column.removesuffix("_accuracy") + " subnet"
            axes[0].plot(line["step"], line[column], "o-", ms=3, lw=1.6, color=PALETTE[colour], label=label)
    smooth = history["loss"].rolling(max(1, len(history) // 40), min_periods=1, center=True).mean()
    axes[-1].plot(history["step"], history["loss"], color=PALETTE["faint"], lw=0.7)
    axes[-1].plot(history["step"], smooth, color=PALETTE["ink"], lw=1.5)
    if has_accuracy:
        _legend(axes[0])
    return figure


def time(data: ReportData) -> Figure | None:
    """The operators of the chosen model, in single precision, in order: their time and MACs."""
    key = timed_model(data)
    operators = [] if key is None else data.operators[key]
    if not operators or any(operator.ms is None for operator in operators):
        return None
    ms, macs = (np.array([getattr(o, name) for o in operators], float) for name in ("ms", "macs"))
    of_time, of_macs = 100 * ms / ms.sum(), 100 * macs / max(macs.sum(), 1)
    figure, (axes,) = _figure("Where the time goes", "share of the model, %", "")
    figure.set_size_inches(SIZE[0], 1.2 + BAR * len(operators))
    stages = [operator.slot.partition(".")[0] for operator in operators]
    turns = np.cumsum([stage != before for before, stage in pairwise([stages[0], *stages])]) % 2
    colours = [PALETTE["cloud" if turn else "front"] for turn in turns]
    place = np.arange(len(operators))
    axes.barh(place, of_time, 0.72, color=colours, label=["time", *["_"] * (len(operators) - 1)])
    axes.plot(
        of_macs,
        place,
        "D",
        ms=4,
        mfc=PALETTE["paper"],
        mec=PALETTE["budget"],
        mew=1.2,
        zorder=3,
        label="MACs",
    )
    ends = np.maximum(of_time, of_macs)
    for y, end in enumerate(ends):
        axes.annotate(
            f"{ms[y]:.3g} ms", (end, y), (6, 0), textcoords="offset points", va="center", fontsize=8.5,
            color=PALETTE["muted"],
        )  # fmt: skip
    axes.set_yticks(place, [operator.slot for operator in operators])
    axes.set_ylim(len(operators) - 0.4, -0.6)
    axes.set_xlim(0, 1.25 * ends.max())
    axes.grid(visible=False, axis="y")
    _legend(axes)
    return figure


def traits(data: ReportData) -> Figure | None:
    """What the models are like, against their latency: a panel a choice, those of a kind in a row by stage.

    Kinds of which all models have the same are left out.
    """
    models, found = models_frame(data.models), traits_of_models(data)
    differs = {kind for (_, kind), values in found.items() if values.astype(str).nunique() > 1}
    shown = [trait for trait in found if trait[1] in differs]
    if len(models) < 2 or not shown:
        return None
    kinds = [kind for _, kind in shown]
    several = [kind for kind in dict.fromkeys(kinds) if kinds.count(kind) > 1]
    single = [trait for trait in shown if trait[1] not in several]
    stages = list(dict.fromkeys(stage for stage, kind in shown if kind in several))
    across = len(stages) or min(4, len(shown))
    rows = [[(stage, kind) for stage in stages] for kind in several]
    rows += [single[i : i + across] for i in range(0, len(single), across)]

    figure = Figure(figsize=(max(SIZE[0], PANEL[0] * across), PANEL[1] * len(rows) + 0.9))
    figure.set_layout_engine("constrained", w_pad=0.05, h_pad=0.06)
    title = {"color": PALETTE["ink"], "fontsize": 11.5, "fontweight": "bold"}
    figure.suptitle("What the models are like", x=0.01, ha="left", **title)
    grid = figure.subplots(len(rows), across, sharex=True, squeeze=False)
    for row, panels in zip(rows, grid, strict=True):
        of_one_kind = [found[trait] for trait in row if trait in found and trait not in single]
        limits = _limits(of_one_kind)
        for axes in panels[len(row) :]:
            axes.set_visible(False)
        for trait, axes in zip(row, panels, strict=False):
            axes.set_visible(trait in found)
            if trait in found:
                _panel(axes, found[trait], models, limits)
                name = " ".join(trait).strip()
                axes.set_title(name, loc="left", fontsize=8.5, color=PALETTE["ink"], pad=4)
    for column in grid.T:
        [*_, lowest] = [axes for axes in column if axes.get_visible()]
        lowest.tick_params(labelbottom=True)
    figure.supxlabel("latency, ms", color=PALETTE["ink"], fontsize=9.5)
    return figure


def _limits(traits: Sequence[pd.Series[Any]]) -> tuple[float, float] | None:
    """The range of several traits, with a margin; None where they have none that suits them all."""
    if not traits or not all(map(pd.api.types.is_numeric_dtype, traits)):
        return None
    low, high = min(values.min() for values in traits), max(values.max() for values in traits)
    if high > COMPARABLE * low:
        return None
    margin = 0.15 * (high - low)
    return low - margin, high + margin


def _panel(
    axes: Axes, values: pd.Series[Any], models: pd.DataFrame, limits: tuple[float, float] | None
) -> None:
    """One trait of the models against their latency; text is placed by its order of appearance."""
    _plain(axes)
    axes.tick_params(labelsize=8)
    if pd.api.types.is_numeric_dtype(values):
        heights = values.to_numpy(float)
        low, high = limits or (np.nanmin(heights), np.nanmax(heights))
        axes.yaxis.set_major_locator(MaxNLocator(3, integer=bool(high - low > 1), min_n_ticks=2))
    else:
        codes, names = pd.factorize(values)
        heights = np.where(codes < 0, np.nan, codes)
        axes.set_yticks(range(len(names)), [str(name)[:10] for name in names])
        axes.set_ylim(-0.5, len(names) - 0.5)
    if limits is not None:
        axes.set_ylim(*limits)
    shown = pd.DataFrame({"id": models["id"], "x": models["latency_ms"], "y": heights}).dropna()
    if pd.api.types.is_numeric_dtype(values):
        smooth = shown["y"].rolling(max(3, len(shown) // 4), min_periods=1, center=True).mean()
        axes.plot(shown["x"], smooth, color=PALETTE["cloud"], lw=1.6, zorder=2)
    _marks(axes, shown, "x", "y", PALETTE["front"], size=3)
    ends = (models["latency_ms"].min(), models["latency_ms"].max())
    axes.set_xticks(ends, [f"{end:.2g}" for end in ends])
    first, last = axes.xaxis.get_major_ticks()
    first.label1.set_horizontalalignment("left")
    last.label1.set_horizontalalignment("right")


FIGURES: dict[str, Callable[[ReportData], Figure | None]] = {
    "front": front,
    "time": time,
    "latency": latency,
    "drift": drift,
    "accuracy": accuracy,
    "hypervolume": hypervolume,
    "traits": traits,
    "training": training,
}


def to_png(figure: Figure) -> bytes:
    """The figure on white, its size × DPI pixels."""
    file = io.BytesIO()
    _lay_out(figure)
    FigureCanvasAgg(figure)
    _save(figure, file, format="png", dpi=DPI, facecolor="white", metadata={"Software": None})
    return file.getvalue()


def to_svg(figure: Figure, name: str, tips: Mapping[str, str], links: Mapping[str, str]) -> str:
    """The figure as an `<svg>` for the inside of an HTML page: no background, the same bytes every time.

    Colours are `var(--ink)` and so on, by the names in PALETTE, and sizes of text are multiplied by
    `var(--text)`; `name` keeps the ids of several figures on one page apart. Marks have the class "mark",
    their id as `data-id`, the tip of that id as tooltip, and are links if there is one.
    """
    file = io.BytesIO()
    _lay_out(figure)
    FigureCanvasSVG(figure)
    unset = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        _save(figure, file, format="svg", transparent=True, metadata=unset)
    drawn = ElementTree.fromstring(file.getvalue())
    title = next(text for text in figure.findobj(Text) if text.get_fontweight() == "bold").get_text()
    root = ElementTree.Element(
        "svg", {"viewBox": drawn.attrib["viewBox"], "role": "group", "aria-label": title}
    )
    root.set("stroke-linejoin", "round")
    root.set("style", f"--width: {figure.get_figwidth() * 72:.0f}px")
    root.extend(drawn)
    for parent in list(root.iter()):
        for child in list(parent):
            child.tag = child.tag.partition("}")[2]
            if child.tag == "style" or (child.tag == "defs" and not len(child)):
                parent.remove(child)
    for element in list(root.iter()):
        attributes = {key.rpartition("}")[2]: value for key, value in element.attrib.items()}
        found = attributes.pop("id", "") if element.tag == "g" else ""
        element.attrib.clear()
        element.attrib.update(attributes)
        if found.startswith(_MARKS):
            drawings = [(p, c) for p in element.iter() if p.tag != "defs" for c in p if c.tag in _DRAWN]
            for key, (parent, child) in zip(json.loads(found.removeprefix(_MARKS)), drawings, strict=True):
                parent.remove(child)
                parent.append(_mark(key, child, tips.get(key), links.get(key)))
    text = ElementTree.tostring(root, encoding="unicode")
    text = re.sub(FONT, _font, text)
    for colour, value in PALETTE.items():
        text = text.replace(value, f"var(--{colour})")
    return text


def _mark(key: str, drawn: ElementTree.Element, tip: str | None, link: str | None) -> ElementTree.Element:
    """What is drawn of an architecture, named, explained and linked."""
    mark = ElementTree.Element("g" if link is None else "a", {"class": "mark", "data-id": key})
    if link is not None:
        mark.set("href", link)
    if tip is not None:
        ElementTree.SubElement(mark, "title").text = tip
    mark.append(drawn)
    return mark


def _font(found: re.Match[str]) -> str:
    weight, short, size = found.groups()
    return f"font-size: calc({short or size}px * var(--text)){f'; font-weight: {weight}' if weight else ''}"


def _save(figure: Figure, file: io.BytesIO, **options: Any) -> None:
    """Write a figure to a file, whatever letters a font lacks."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        figure.savefig(file, **options)


def _lay_out(figure: Figure) -> None:
    """Compute the layout of a figure once, for all formats: matplotlib would compute it twice a format.

    Names of choices are shown as text and never as mathematics.
    """
    if figure.get_layout_engine() is None:
        return
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        figure.draw_without_rendering()
    figure.set_layout_engine("none")


def _figure(title: str, x: str, *ys: str) -> tuple[Figure, list[Axes]]:
    """A figure of one panel for each label of a y axis, above one another, with one x axis."""
    figure = Figure(figsize=SIZE)
    figure.set_layout_engine("constrained", w_pad=0.1, h_pad=0.1)
    panels = figure.subplots(len(ys), 1, sharex=True, squeeze=False)[:, 0].tolist()
    for axes, y in zip(panels, ys, strict=True):
        _plain(axes)
        axes.set_ylabel(y, color=PALETTE["ink"], fontsize=9.5)
        axes.margins(0.06, 0.11)
        axes.ticklabel_format(useOffset=False)
    panels[-1].set_xlabel(x, color=PALETTE["ink"], fontsize=9.5)
    panels[0].set_title(title, loc="left", color=PALETTE["ink"], fontsize=11.5, fontweight="bold", pad=24)
    return figure, panels


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(PALETTE["faint"])
    axes.tick_params(color=PALETTE["faint"], labelcolor=PALETTE["muted"], labelsize=9, length=3)
    axes.grid(color=PALETTE["line"], lw=0.6)
    axes.set_axisbelow(True)


def _marks(
    axes: Axes, points: pd.DataFrame, x: str, y: str, colour: str, label: str | None = None, size: float = 3.8
) -> None:
    """A mark for each row, by its id."""
    points = points.dropna(subset=[x, y])
    if len(points):
        axes.scatter(
            points[x], points[y], size**2, colour, lw=0, alpha=0.7, label=label, gid=_ids(points["id"])
        )


def _ids(keys: Iterable[str]) -> str:
    return _MARKS + json.dumps(list(keys))


def _models(axes: Axes, models: pd.DataFrame, x: str, y: str) -> None:
    """A mark for each model, by its kind; hollow where it was not measured."""
    labelled = set()
    for model in models.dropna(subset=[x, y]).to_dict("records"):
        measured, (marker, colour) = bool(np.isfinite(model["measured_ms"])), SIGNS[model["kind"]]
        label = model["kind"] if measured else "not measured"
        axes.plot(
            model[x], model[y], marker, ms=6.5, zorder=4, mew=1.2,
            mec=PALETTE["paper" if measured else colour],
            mfc=PALETTE[colour if measured else "paper"], gid=_ids([model["id"]]),
            label=None if label in labelled else label,
        )  # fmt: skip
        labelled.add(label)


def _note(axes: Axes, point: NDArray[np.float64], text: str) -> None:
    """A ring around a point, and its name below."""
    axes.plot(*point, "o", ms=8, mfc="none", mec=PALETTE["ink"], mew=1, zorder=5)
    axes.annotate(
        text, (point[0], point[1]), (0, -8), textcoords="offset points", ha="center", va="top", fontsize=8.5,
        color=PALETTE["ink"], zorder=5,
    )  # fmt: skip


def _diagonal(axes: Axes, x: pd.Series[float], y: pd.Series[float]) -> tuple[float, float]:
    """Equal limits on both axes and the line where both agree; returns the limits."""
    low, high = min(x.min(), y.min()), max(x.max(), y.max())
    margin = (high - low) * 0.08 or abs(high) * 0.1 or 1.0
    low, high = float(low - margin), float(high + margin)
    axes.set_xlim(low, high)
    axes.set_ylim(low, high)
    axes.plot([low, high], [low, high], color=PALETTE["muted"], lw=1, zorder=1)
    return low, high


def _agreement(axes: Axes, found: Agreement, template: str) -> None:
    tau = "" if np.isnan(found.kendall_tau) else f"\nKendall tau {found.kendall_tau:.2f}"
    axes.text(
        0.03, 0.96, template.format(found) + tau + f"\nn = {found.n}", transform=axes.transAxes, va="top",
        color=PALETTE["ink"], fontsize=9, linespacing=1.5,
    )  # fmt: skip


def _legend(axes: Axes) -> None:
    """One row between the title and the panel, where it hides nothing."""
    legend = axes.legend(
        loc="lower left", bbox_to_anchor=(-0.01, 0.99), ncols=5, fontsize=8.5, labelcolor=PALETTE["muted"],
        frameon=False, borderpad=0.3, handletextpad=0.3, handlelength=1.4, columnspacing=1.1,
    )  # fmt: skip
    legend.set_in_layout(False)
