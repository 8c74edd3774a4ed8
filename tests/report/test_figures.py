import io
import re
from dataclasses import replace

import pytest
from PIL import Image

from hwnas.report.data import ReportData
from hwnas.report.figures import DPI, FIGURES, PALETTE, SIZE, front, to_png, to_svg


@pytest.mark.parametrize("name", FIGURES)
def test_png_has_the_expected_size(name: str, data: ReportData) -> None:
    figure = FIGURES[name](data)
    assert figure is not None
    image = Image.open(io.BytesIO(to_png(figure)))
    assert (image.format, image.size) == ("PNG", tuple(round(inches * DPI) for inches in SIZE))
    colours = image.convert("RGB").getcolors(maxcolors=2**24)
    assert len(colours) > 50  # something was drawn,
    assert max(colours)[1] == (255, 255, 255)  # on white


@pytest.mark.parametrize("name", FIGURES)
def test_svg_is_repeatable_and_takes_its_colours_from_the_page(name: str, data: ReportData) -> None:
    first, second = (to_svg(figure, name) for figure in map(FIGURES[name], (data, data)) if figure)
    assert first == second
    assert first.startswith("<svg ")
    assert first.rstrip().endswith("</svg>")
    assert "http" not in first
    colours = set(re.findall(r"#[0-9a-fA-F]{6}\b", first))
    assert not colours & set(PALETTE.values())
    assert "var(--ink)" in first


def test_ids_of_two_figures_differ(data: ReportData) -> None:
    ids = [set(re.findall(r' id="([^"]*)"', to_svg(f, n))) for n, d in FIGURES.items() if (f := d(data))]
    assert sum(map(len, ids)) == len(set().union(*ids)) > 0


def test_every_model_has_a_tooltip(data: ReportData) -> None:
    figure = front(data)
    assert figure is not None
    titles = re.findall(r"<title>([^<]*)</title>", to_svg(figure, "front"))
    assert [title.split(":")[0] for title in titles] == [
        m["id"] for m in sorted(data.models, key=lambda m: m["measured"]["latency_ms"])
    ]


def test_nothing_to_show_is_no_figure(data: ReportData) -> None:
    nothing = replace(data, evaluations=data.evaluations[:0], models=[], hypervolume={}, training=[])
    assert [draw(nothing) for draw in FIGURES.values()] == [None] * len(FIGURES)


def test_a_budget_far_away_does_not_squash_the_front(data: ReportData) -> None:
    usual, far = front(data), front(replace(data, budgets_ms={**data.budgets_ms, 500.0: None}))
    assert usual is not None
    assert far is not None
    assert far.axes[0].get_xlim() == usual.axes[0].get_xlim()


def test_training_without_accuracies_has_one_panel(data: ReportData) -> None:
    figure = FIGURES["training"](replace(data, training=[{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0}]))
    assert figure is not None
    assert len(figure.axes) == 1


def test_the_line_joins_what_no_model_is_faster_and_more_accurate_than(data: ReportData) -> None:
    figure = front(data)
    assert figure is not None
    (line,) = [line for line in figure.axes[0].lines if len(line.get_xdata()) > 2]
    models = {(m["measured"]["latency_ms"], m["validation_accuracy"]) for m in data.models}
    beaten = {(x, y) for x, y in models if any(u < x and v >= y for u, v in models)}
    assert beaten  # by chance of what was measured
    assert set(zip(line.get_xdata(), line.get_ydata(), strict=True)) == models - beaten
