"""report.html: one page that says what was found and how far it can be trusted. It loads nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from hwnas.report.data import (
    ReportData,
    accuracy_agreement,
    evaluations_to_match_random,
    latency_agreement,
    models_frame,
)
from hwnas.report.figures import FIGURES, to_png, to_svg
from hwnas.store import write_bytes, write_text


def write_report(data: ReportData, directory: str | Path) -> Path:
    """Write figures/*.png and report.html into a run's folder; returns the path of report.html.

    Each file is written whole or not at all; the picture of a figure that the run does not have is removed.
    StoreError if something cannot be written.
    """
    directory = Path(directory)
    for name, draw in FIGURES.items():
        figure, path = draw(data), directory / "figures" / f"{name}.png"
        if figure is None:
            path.unlink(missing_ok=True)
        else:
            write_bytes(path, to_png(figure))
    write_text(directory / "report.html", render(data))
    return directory / "report.html"


def render(data: ReportData) -> str:
    """The page as HTML: one file without scripts or references, light and dark; all text is escaped."""
    models = models_frame(data.models)
    by_id = {row["id"]: row for row in models.to_dict("records")}
    for model in data.models:
        found = {metric.partition("@")[2]: ms for metric, ms in model["predicted"].items() if "@" in metric}
        by_id[model["id"]]["further"] = found
    drawn = {name: draw(data) for name, draw in FIGURES.items()}
    return _ENVIRONMENT.get_template("report.html.j2").render(
        data=data,
        models=list(by_id.values()),
        choices=[(b, None if key is None else by_id[key]) for b, key in sorted(data.budgets_ms.items())],
        measured=int(models["measured_ms"].notna().sum()),
        example=_example(data, models),
        figures={name: Markup(to_svg(f, name)) for name, f in drawn.items() if f is not None},
        latency=latency_agreement(data),
        accuracy=accuracy_agreement(data),
        matched=evaluations_to_match_random(data),
        failed=int((data.evaluations["status"] == "failed").sum()),
        facts=_flat(data.environment),
        config=yaml.safe_dump(_plain(data.config), sort_keys=False, allow_unicode=True),
    )


def _example(data: ReportData, models: pd.DataFrame) -> str | None:
    """The model of the code example: that of the loosest budget met, or else the most accurate."""
    chosen = [key for _, key in sorted(data.budgets_ms.items()) if key is not None]
    if chosen or models.empty:
        return chosen[-1] if chosen else None
    return str(models.sort_values("validation")["id"].iloc[-1])


def _plain(value: Any) -> Any:
    """Mappings and sequences as dicts and lists, for YAML."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, bool | int | float | None) else str(value)


def _flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested mappings as one, by dotted key; lists as text."""
    flat: dict[str, str] = {}
    for key, value in data.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            items = value if isinstance(value, list | tuple) else [value]
            flat[f"{prefix}{key}"] = ", ".join("—" if item is None else str(item) for item in items)
    return flat


# ---- numbers as text; what is not known is a dash ------------------------------------------------


def _known(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _number(value: float | None, decimals: int = 1, unit: str = "") -> str:
    return f"{value:.{decimals}f}{unit}" if value is not None and _known(value) else "—"


def _digits(value: float) -> str:
    """Three significant digits."""
    value = float(f"{value:.3g}")
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}" if value else "0"


def _ms(value: float) -> str:
    return f"{_digits(value)} ms" if _known(value) else "—"


def _count(value: float) -> str:
    """Three significant digits with K, M or G."""
    for factor, unit in ((1e9, " G"), (1e6, " M"), (1e3, " K")):
        if value >= factor:
            return f"{_digits(value / factor)}{unit}"
    return f"{value:.0f}"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


_ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.filters |= {
    "number": _number,
    "digits": _digits,
    "ms": _ms,
    "count": _count,
    "duration": _duration,
}
_ENVIRONMENT.tests["known"] = _known
