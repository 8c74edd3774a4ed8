import io
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from hwnas.report.data import ReportData, chosen_model, kind_of, repeats, thinned, timed_model
from hwnas.report.figures import DPI, FIGURES, PALETTE, SIZE, front, to_png, to_svg
from tests.report.conftest import make_data


@pytest.mark.parametrize("name", FIGURES)
def test_png_is_a_picture_on_white_as_wide_as_all(name: str, data: ReportData) -> None:
    figure = FIGURES[name](data)
    assert figure is not None
    image = Image.open(io.BytesIO(to_png(figure)))
    assert (image.format, image.width) == ("PNG", round(SIZE[0] * DPI))
    colours = image.convert("RGB").getcolors(maxcolors=2**24)
    assert len(colours) > 50  # something was drawn,
    assert max(colours)[1] == (255, 255, 255)  # on white


@pytest.mark.parametrize("name", FIGURES)
def test_svg_is_repeatable_and_takes_its_colours_from_the_page(name: str, data: ReportData) -> None:
    first, second = (to_svg(figure, name, {}, {}) for figure in map(FIGURES[name], (data, data)) if figure)
    assert first == second
    assert first.startswith("<svg ")
    assert first.endswith("</svg>")
    assert "http" not in first
    assert "<style" not in first  # it would be the whole page's
    colours = set(re.findall(r"#[0-9a-fA-F]{6}\b", first))
    assert not colours & set(PALETTE.values())
    assert "var(--ink)" in first
    assert len(re.findall(r"calc\([\d.]+px \* var\(--text\)\)", first)) == first.count("<text") > 5


def test_ids_of_two_figures_differ(data: ReportData) -> None:
    drawn = {name: figure for name, draw in FIGURES.items() if (figure := draw(data))}
    ids = [set(re.findall(r' id="([^"]*)"', to_svg(f, name, {}, {}))) for name, f in drawn.items()]
    assert sum(map(len, ids)) == len(set().union(*ids)) > 0


def test_marks_are_explained_and_those_of_models_are_links(data: ReportData) -> None:
    figure = front(data)
    assert figure is not None
    ids = [m["id"] for m in sorted(data.models, key=lambda m: m["measured"]["latency_ms"])]
    tips = {key: f"tip of {key} <&>" for key in data.architectures}
    svg = to_svg(figure, "front", tips, {key: f"#{key}" for key in ids})
    assert re.findall(r'<a [^>]*href="#([^"]*)"', svg) == ids
    shown = data.evaluations.dropna(subset=["accuracy"])["id"]
    marked = re.findall(r'class="mark" data-id="([^"]*)"', svg)
    assert sorted(marked) == sorted({*shown, *ids})  # each once, those over budget too
    assert svg.count("&lt;&amp;&gt;</title>") == len(marked)


def test_what_kind_a_model_is_shows(data: ReportData) -> None:
    assert {"model", "fine-tuned", "in 8 bits"} <= set(texts(data, "front"))
    found = [m for m in data.models if kind_of(m) == "model"]
    assert not {"fine-tuned", "in 8 bits"} & set(texts(replace(data, models=found), "front"))


def test_from_one_verification_to_the_next(data: ReportData) -> None:
    found = repeats(data)
    assert set(found["id"]) == {m["id"] for m in data.models}
    assert len(found) == 2 * len(data.models)  # the board is another device
    first, last = (found[found["date"].dt.day == day] for day in (14, 28))
    assert first["percent"].to_numpy() == pytest.approx(100)
    assert last["percent"].to_numpy() == pytest.approx(107, abs=2)
    assert (last["drift"] == 0.07).all()
    assert first["drift"].isna().all()
    assert "disturbed" not in texts(data, "drift")
    noisy = [
        {**m, "verifications": [{**v, "noise": ["drift"]} for v in m["verifications"]]} for m in data.models
    ]
    assert "disturbed" in texts(replace(data, models=noisy), "drift")
    once = [{**m, "verifications": m["verifications"][1:]} for m in data.models]
    assert FIGURES["drift"](replace(data, models=once)) is None


def test_time_is_that_of_the_model_in_single_precision(data: ReportData) -> None:
    small = next(m for m in data.models if kind_of(m) == "in 8 bits")
    taken = replace(data, budgets_ms={0.5: small["id"]})
    assert timed_model(taken) == small["quantized"]["from"]
    assert texts(taken, "time") == texts(replace(data, budgets_ms={0.5: small["quantized"]["from"]}), "time")


def texts(data: ReportData, name: str) -> list[str]:
    figure = FIGURES[name](data)
    assert figure is not None
    return re.findall(r"<text[^>]*>([^<]*)</text>", to_svg(figure, name, {}, {}))


def test_the_knee_is_marked(data: ReportData) -> None:
    assert "knee" in texts(data, "front")
    assert "knee" not in texts(replace(data, knee=None), "front")


def test_time_is_of_the_chosen_model_and_needs_a_table(data: ReportData) -> None:
    chosen = chosen_model(data)
    assert chosen is not None
    operators = data.operators[chosen]
    said = texts(data, "time")
    assert {operator.slot for operator in operators} <= set(said)
    assert [text for text in said if text.endswith(" ms")] == [f"{o.ms:.3g} ms" for o in operators]
    untimed = {key: [replace(o, ms=None) for o in found] for key, found in data.operators.items()}
    assert FIGURES["time"](replace(data, operators=untimed)) is None


def test_traits_leave_out_what_all_models_share(data: ReportData) -> None:
    said = texts(data, "traits")
    assert {"stage1 depth", "stage2 kernel", "stage3 width", "resolution"} <= set(said)
    same = {key: {**values, "resolution": 48} for key, values in data.architectures.items()}
    assert "resolution" not in texts(replace(data, architectures=same), "traits")
    assert FIGURES["traits"](replace(data, models=data.models[:1])) is None


def test_traits_of_a_space_without_stages_are_by_name_and_may_be_text(data: ReportData) -> None:
    rng = np.random.default_rng(0)
    choices = ("skip", "k3e3", "$k^5$", "k\u00e9\u4e2d")
    values = {key: {f"layer{i}": str(rng.choice(choices)) for i in range(7)} for key in data.architectures}
    said = texts(replace(data, architectures=values), "traits")
    assert {f"layer{i}" for i in range(7)} | set(choices) <= set(said)


def test_every_figure_of_a_small_run_can_be_drawn() -> None:
    data = make_data(evaluations=12, budgets=())
    for name, draw in FIGURES.items():
        figure = draw(replace(data, models=data.models[:2]))
        if figure is not None:
            assert to_png(figure).startswith(b"\x89PNG")
            assert to_svg(figure, name, {}, {}).startswith("<svg")


def test_nothing_to_show_is_no_figure(data: ReportData) -> None:
    nothing = replace(data, evaluations=data.evaluations[:0], models=[], hypervolume={}, training=[])
    nothing = replace(nothing, budgets_ms={})
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


def test_figures_show_no_more_evaluations_than_a_page_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_data(evaluations=100)
    monkeypatch.setattr("hwnas.report.data.SHOWN", 30)
    shown = thinned(data.evaluations)["id"].tolist()
    assert shown == data.evaluations["id"].tolist()[::4]
    figure = front(data)
    assert figure is not None
    marked = re.findall(r'class="mark" data-id="([^"]*)"', to_svg(figure, "front", {}, {}))
    assert set(marked) <= {*shown, *(model["id"] for model in data.models)}
    assert len(marked) < 60
    assert texts(data, "hypervolume")  # its traces are thinned alike
