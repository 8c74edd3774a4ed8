"""The figure of a search: every evaluation, and the front."""

from __future__ import annotations

import io
from collections.abc import Sequence

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from hwnas.errors import SearchError
from hwnas.searching.objectives import Evaluation, Problem
from hwnas.searching.pareto import ParetoFront

FRONT, CLOUD, GRID = "#0072b2", "#56b4e9", "#d9dee3"  # Okabe and Ito, safe for the colour blind


class FrontFigure(Figure):
    """A figure that notebooks show as a picture, without pyplot and without ``%matplotlib inline``."""

    def _repr_png_(self) -> bytes:
        """Return the figure as a PNG file; IPython calls this to display an object."""
        picture = io.BytesIO()
        self.savefig(picture, format="png")
        return picture.getvalue()


def plot_front(
    problem: Problem,
    evaluations: Sequence[Evaluation],
    front: ParetoFront,
    x: str | None = None,
    y: str | None = None,
) -> Figure:
    """Evaluations and their front by two objectives: the second against the first unless named.

    A notebook shows the figure that the last line of a cell returns.
    """
    directions = {o.name: o.direction for o in problem.objectives}
    if len(directions) < 2:
        raise SearchError(f"a plot takes two objectives, the search has one: {next(iter(directions))}")
    names = list(directions)
    x = x or next(name for name in (names[1], names[0]) if name != y)
    y = y or next(name for name in names if name != x)
    for name in (x, y):
        if name not in directions:
            raise SearchError(f"{name!r} is no objective of this search; there are {', '.join(names)}")
    figure = FrontFigure(figsize=(6.0, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    good = [e.metrics for e in evaluations if e.status == "ok"]
    axes.scatter([m[x] for m in good], [m[y] for m in good], 13, CLOUD, alpha=0.65, lw=0, label="evaluated")
    best = sorted((e.metrics[x], e.metrics[y]) for e in front)
    line = "-" if len(names) == 2 else ""  # of more than two objectives a front is no line
    axes.plot(
        [p[0] for p in best], [p[1] for p in best], "o" + line, color=FRONT, ms=5, lw=1.6, label="front"
    )
    axes.set_xlabel(f"{x} ({directions[x]})")
    axes.set_ylabel(f"{y} ({directions[y]})")
    axes.grid(color=GRID, lw=0.6)
    axes.set_axisbelow(True)
    axes.legend(frameon=False)
    return figure
