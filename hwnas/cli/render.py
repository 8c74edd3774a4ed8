"""What was found as tables and lines for a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table

from hwnas.cli.display import plain
from hwnas.latency.runner import core_list


def models_table(models: Sequence[dict[str, Any]]) -> Table:
    """The front as a table for the terminal, fastest first; fits 80 columns."""
    table = Table(title="Pareto front", box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    bits = bits_of(models)
    table.add_column("model", no_wrap=True)
    if bits:
        table.add_column("bits", justify="right")
    for column in ("val %", "test %", "predicted ms", "measured ms", "budget ms"):
        table.add_column(column, justify="right", min_width=max(map(len, column.split())))
    table.add_column("status", no_wrap=True)
    for model in models:
        predicted, measured = (model[name]["latency_ms"] for name in ("predicted", "measured"))
        budget = model["budget_ms"]
        table.add_row(
            plain(model["id"]),
            *([bits[model["id"]]] if bits else []),
            f"{model['validation_accuracy']:.2f}",
            f"{model['test_accuracy']:.2f}",
            "" if predicted is None else f"{predicted:.4g}",
            "" if measured is None else f"{measured:.4g}",
            "" if budget is None else f"≤ {budget:g}",
            plain(model["status"]),
        )
    return table


def bits_of(models: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The bits of each model's precision by id, where ids do not say it; empty if all do."""
    small = [m["id"] for m in models if m.get("precision") == "int8"]
    if all(name.endswith("-int8") for name in small):
        return {}
    return {model["id"]: "8" if model["id"] in small else "32" for model in models}


def dropped_int8(models: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """A line on the models that are not worth having in 8 bits, where there are any."""
    dropped = [
        f"{model['id']} ({model['int8']['speedup']:.2f} times as fast)"
        for model in models
        if model.get("int8") and model["int8"]["status"] == "dropped"
    ]
    if dropped:
        yield f"Dropped in 8 bits, the README.md of each says why: {', '.join(dropped)}"


def budget_line(budget: dict[str, Any]) -> str:
    line = f"For {budget['budget_ms']:g} ms: {budget['model'] or 'no model keeps it'}"
    said = {"measured too slow": budget["missed"], "undecidable at this noise": budget["undecidable"]}
    notes = [f"{what}: {', '.join(names)}" for what, names in said.items() if names]
    return f"{line} ({'; '.join(notes)})" if notes else line


def front_table(models: Sequence[dict[str, Any]]) -> Table:
    """Models to choose from, in their order; fits 80 columns."""
    table = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    bits = bits_of(models)
    table.add_column("model", no_wrap=True)
    if bits:
        table.add_column("bits", justify="right")
    for column in ("val %", "test %", "ms", "95 %", "MMACs", "k params"):
        table.add_column(column, justify="right", min_width=max(map(len, column.split())))
    for column in ("status", ""):
        table.add_column(column, no_wrap=True)
    for model in models:
        test, ms = model["test_accuracy"], model["latency_ms"]
        table.add_row(
            plain(model["id"]),
            *([bits[model["id"]]] if bits else []),
            f"{model['accuracy']:.2f}",
            "" if test is None else f"{test:.2f}",
            f"{ms:.4g}",
            interval(model["latency_ci_ms"], ms),
            f"{model['macs'] / 1e6:.3g}",
            f"{model['params'] / 1e3:.4g}",
            plain(model["status"]),
            "knee" if model["knee"] else "",
        )
    return table


def elsewhere_table(found: dict[str, Any]) -> Table:
    """What was measured on another device, fastest first; fits 80 columns."""
    about = found["measured_on"]
    title = f"On {about['name']}, {about['runtime']['name']} {about['runtime']['version']}"
    table = Table(title=plain(title), box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("model", no_wrap=True)
    for column in ("val %", "ms", "95 %", "run's own ms", "ratio"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("since last time", no_wrap=True)
    for model in sorted(found["models"], key=lambda model: float(model["latency_ms"])):
        ms, own, drift = model["latency_ms"], model["own_latency_ms"], model["drift"]
        table.add_row(
            plain(model["id"]),
            f"{model['accuracy']:.2f}",
            f"{ms:.4g}",
            interval(model["latency_ci_ms"], ms),
            "" if own is None else f"{own:.4g}",
            "" if own is None else f"{ms / own:.2f}",
            "" if drift is None else f"{100 * drift:+.1f} %",
        )
    return table


def interval(ci_ms: Sequence[float] | None, ms: float) -> str:
    """An interval around a latency in percent of it."""
    return "" if ci_ms is None else f"±{50 * (ci_ms[1] - ci_ms[0]) / ms:.1f} %"


def benchmark_table(found: dict[str, Any]) -> Table:
    """Files that were timed, in their order; fits 80 columns."""
    runtime = found["runtime"]
    about = (
        f"{found['device']['name']}, {runtime['name']} {runtime['version']}, threads: {runtime['threads']}"
    )
    if found["cores"]:
        about += f", cores: {core_list(found['cores'])}"
    table = Table(title=plain(about), box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("model", overflow="fold")
    for column in ("ms", "95 %", "first call ms", "ratio", "95 %"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in found["models"]:
        low, high = row["ratio_ci"]
        table.add_row(
            plain(row["file"]),
            f"{row['latency_ms']:.4g}",
            interval(row["latency_ci_ms"], row["latency_ms"]),
            f"{row['cold_ms']:.4g}",
            f"{row['ratio']:.3f}",
            f"{low:.3f}–{high:.3f}",
        )
    return table


def predictors_table(found: dict[str, Any]) -> Table:
    """Figures of each predictor, best rank correlation first; fits 80 columns."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("predictor", no_wrap=True)
    columns = {
        "Kendall tau": ("kendall_tau", ".3f", ".3f"),
        "Spearman": ("spearman", ".3f", ".3f"),
        "MAPE %": ("mape", ".3g", ".1g"),
        "RMSE": ("rmse", ".3g", ".1g"),
        "fit s": ("fit_s", ".3f", ""),
        "predict s": ("predict_s", ".4f", ""),
    }
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for name, figures in sorted(found.items(), key=lambda item: -float(item[1]["kendall_tau"]["mean"])):
        cells = []
        for figure, form, spread in columns.values():
            value = figures[figure]
            text = "–" if value is None else format(value["mean"], form)
            if spread and value is not None and value["std"] is not None:
                text += f"±{value['std']:{spread}}"
            cells.append(text)
        table.add_row(name, *cells)
    return table
