"""The figures of a report. Each takes the data and returns a figure, or None where there is nothing to show.

Colours come from `PALETTE` only (after Okabe and Ito, https://jfly.uni-koeln.de/color/, safe for the colour
blind), so that a page which inlines the SVG can put its own, light or dark, in their place. No text of the
user is drawn, but the strategies' names.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from numpy.typing import NDArray

from hwnas.report.data import (
    Agreement,
    ReportData,
    accuracy_agreement,
    latency_agreement,
    models_frame,
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
SIZE = (5.4, 3.6)  # inches
DPI = 200
_HOVER = "hover: "  # marks the gid of an artist whose remainder becomes a tooltip


def front(data: ReportData) -> Figure | None:
    """Every evaluated architecture, the models, connected where none is slower and worse, and the budgets."""
    seen, models = data.evaluations.dropna(subset=["accuracy", "latency_ms"]), models_frame(data.models)
    if seen.empty and models.empty:
        return None
    figure, (axes,) = _figure("Accuracy against latency", "latency, ms", "validation accuracy, %")
    feasible = seen["feasible"].astype(bool)
    for part, colour, label in (
        (seen[~feasible], "faint", "over budget"),
        (seen[feasible], "cloud", "evaluated"),
    ):
        if not part.empty:
            axes.scatter(
                part["latency_ms"], part["accuracy"], 13, PALETTE[colour], alpha=0.65, lw=0, label=label
            )
    if not models.empty:
        better = models[models["validation"] > models["validation"].cummax().shift(fill_value=-np.inf)]
        axes.plot(better["latency_ms"], better["validation"], color=PALETTE["front"], lw=1.6, zorder=3)
    _models(axes, models, "latency_ms", "validation")
    if len(seen) > 1:
        points = seen.sort_values("macs")[["latency_ms", "accuracy"]].to_numpy(float)
        _note(axes, points[0], "smallest")
        _note(axes, points[-1], "largest")
    low, high = axes.get_xlim()
    near = [b for b in data.budgets_ms if low - (high - low) / 4 < b < high + (high - low) / 4]
    for budget in near:
        axes.axvline(budget, color=PALETTE["budget"], lw=1.1, ls=(0, (5, 3)), zorder=1)
        axes.annotate(
            f"{budget:g} ms", (budget, 0), (-3, 5), xycoords=axes.get_xaxis_transform(), rotation=90,
            textcoords="offset points", ha="right", va="bottom", color=PALETTE["budget"], fontsize=8.5,
        )  # fmt: skip
    _legend(axes)
    return figure


def latency(data: ReportData) -> Figure | None:
    """The models' latency: predicted by the table against measured."""
    found, models = latency_agreement(data), models_frame(data.models).dropna(subset=["measured_ms"])
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


def accuracy(data: ReportData) -> Figure | None:
    """Accuracy by a predictor that has not seen an evaluation, against its outcome."""
    found = accuracy_agreement(data)
    if found is None:
        return None
    seen = data.evaluations.dropna(subset=["predicted_accuracy", "accuracy"])
    figure, (axes,) = _figure("Is the predictor right?", "accuracy predicted, %", "accuracy evaluated, %")
    _diagonal(axes, seen["predicted_accuracy"], seen["accuracy"])
    axes.scatter(seen["predicted_accuracy"], seen["accuracy"], 16, PALETTE["front"], alpha=0.7, lw=0)
    _agreement(axes, found, "median error {0.median_error:.2f} points\nmean {0.mean_error:.2f} points")
    return figure


def hypervolume(data: ReportData) -> Figure | None:
    """Hypervolume after each evaluation, beside random search."""
    traces = {strategy: trace for strategy, trace in data.hypervolume.items() if len(trace)}
    if not traces:
        return None
    figure, (axes,) = _figure("What the search gained", "architectures evaluated", "hypervolume")
    for strategy, trace in traces.items():
        random = strategy == "random"
        colour = PALETTE["muted" if random else "front"]
        axes.step(
            range(1, len(trace) + 1), trace, where="post", label=strategy, zorder=2 if random else 3,
            color=colour, lw=1.4 if random else 2, ls="--" if random else "-",
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
    if history.empty:
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


FIGURES: dict[str, Callable[[ReportData], Figure | None]] = {
    "front": front,
    "latency": latency,
    "accuracy": accuracy,
    "hypervolume": hypervolume,
    "training": training,
}


def to_png(figure: Figure) -> bytes:
    """The figure on white, SIZE × DPI pixels."""
    file = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(file, format="png", dpi=DPI, facecolor="white", metadata={"Software": None})
    return file.getvalue()


def to_svg(figure: Figure, name: str) -> str:
    """The figure as an `<svg>` for the inside of an HTML page: no background, the same bytes every time.

    Colours are `var(--ink)` and so on, by the names in PALETTE; `name` keeps the ids of several figures on
    one page apart; the artists that have details show them as tooltips.
    """
    file = io.StringIO()
    FigureCanvasSVG(figure)
    unset = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(file, format="svg", transparent=True, metadata=unset)
    text = file.getvalue()
    opening, body = text[text.index("<svg") :].split(">", 1)
    box = re.search(r'viewBox="[^"]*"', opening)
    assert box is not None
    body = re.sub(r'<g id="([^"]*)"([^>]*)>', _without_id, body).replace("xlink:href=", "href=")
    for colour, value in PALETTE.items():
        body = body.replace(value, f"var(--{colour})")
    label = html.escape(figure.axes[0].get_title("left"))
    return f'<svg {box[0]} role="img" aria-label="{label}">{body}'


def _without_id(group: re.Match[str]) -> str:
    """A group of the SVG without its id, which is either of no use or a tooltip in disguise."""
    name, rest = group.groups()
    title = f"<title>{name.removeprefix(_HOVER)}</title>" if name.startswith(_HOVER) else ""
    return f"<g{rest}>{title}"


def _figure(title: str, x: str, *ys: str) -> tuple[Figure, list[Axes]]:
    """A figure of one panel for each label of a y axis, above one another, with one x axis."""
    figure = Figure(figsize=SIZE)
    figure.set_layout_engine("constrained", w_pad=0.1, h_pad=0.1)
    panels = figure.subplots(len(ys), 1, sharex=True, squeeze=False)[:, 0].tolist()
    for axes, y in zip(panels, ys, strict=True):
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(PALETTE["faint"])
        axes.tick_params(color=PALETTE["faint"], labelcolor=PALETTE["muted"], labelsize=9, length=3)
        axes.grid(color=PALETTE["line"], lw=0.6)
        axes.set_axisbelow(True)
        axes.set_ylabel(y, color=PALETTE["ink"], fontsize=9.5)
        axes.margins(0.06, 0.11)
        axes.ticklabel_format(useOffset=False)
    panels[-1].set_xlabel(x, color=PALETTE["ink"], fontsize=9.5)
    panels[0].set_title(title, loc="left", color=PALETTE["ink"], fontsize=11.5, fontweight="bold", pad=24)
    return figure, panels


def _models(axes: Axes, models: pd.DataFrame, x: str, y: str) -> None:
    """A marker for each model, with its details as a tooltip; hollow where it was not measured."""
    labels = {True: "model", False: "not measured"}
    for model in models.to_dict("records"):
        measured = bool(np.isfinite(model["measured_ms"]))
        axes.plot(
            model[x], model[y], "o", ms=6.5, zorder=4, mew=1.2, mec=PALETTE["paper" if measured else "front"],
            mfc=PALETTE["front" if measured else "paper"], label=labels.pop(measured, None),
            gid=f"{_HOVER}{model['id']}: {model['validation']:.2f} %, {model['latency_ms']:.3g} ms"
            + ("" if measured else " predicted"),
        )  # fmt: skip


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
        loc="lower left", bbox_to_anchor=(-0.01, 0.99), ncols=4, fontsize=8.5, labelcolor=PALETTE["muted"],
        frameon=False, borderpad=0.3, handletextpad=0.5, columnspacing=1.4,
    )  # fmt: skip
    legend.set_in_layout(False)
    for text in legend.get_texts():
        text.set_parse_math(False)
