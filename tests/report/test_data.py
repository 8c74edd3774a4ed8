from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwnas.report.data import (
    ReportData,
    accuracy_agreement,
    agreement,
    evaluations_to_match_random,
    latency_agreement,
    models_frame,
)


def test_agreement_by_hand() -> None:
    found = agreement([1.1, 1.8, 3.0, np.nan, 9.0], [1.0, 2.0, 3.0, 4.0, np.nan], relative=True)
    assert found is not None
    assert found.n == 3
    assert found.median_error == pytest.approx(10)
    assert found.mean_error == pytest.approx(20 / 3)
    assert found.kendall_tau == pytest.approx(1)
    points = agreement([90, 95], [91, 93], relative=False)
    assert points is not None
    assert points.median_error == pytest.approx(1.5)


def test_agreement_of_too_little() -> None:
    assert agreement([], [], relative=True) is None
    assert agreement([np.nan], [1.0], relative=True) is None
    one = agreement([2.0], [1.0], relative=True)
    assert one is not None
    assert one.median_error == 100
    assert np.isnan(one.kendall_tau)
    same = agreement([1.0, 1.0], [1.0, 2.0], relative=False)
    assert same is not None
    assert np.isnan(same.kendall_tau)


@given(st.lists(st.floats(0.01, 100), min_size=2, max_size=20, unique=True))
def test_a_perfect_prediction_has_no_error(values: list[float]) -> None:
    found = agreement(values, values, relative=True)
    assert found is not None
    assert (found.median_error, found.mean_error) == (0, 0)
    assert found.kendall_tau == pytest.approx(1)


def test_models_are_sorted_by_what_is_known_of_their_latency(data: ReportData) -> None:
    first, second = data.models[:2]
    unknown = {**second, "id": "late", "predicted": {"accuracy": None, "latency_ms": 99.0}}
    for measured in (None, {"latency_ms": None, "latency_ci_ms": None}):
        frame = models_frame([{**unknown, "measured": measured}, first])
        assert frame["id"].tolist() == [first["id"], "late"]
        assert frame["latency_ms"].tolist() == [first["measured"]["latency_ms"], 99.0]
        assert np.isnan(frame.loc[1, ["measured_ms", "ci_low", "ci_high"]].astype(float)).all()
    assert models_frame([]).empty


def test_only_what_was_measured_is_compared(data: ReportData) -> None:
    unmeasured = [{**model, "measured": None} for model in data.models[1:]]
    found = latency_agreement(replace(data, models=[data.models[0], *unmeasured]))
    assert found is not None
    assert found.n == 1
    assert latency_agreement(replace(data, models=unmeasured)) is None
    predicted = accuracy_agreement(data)
    assert predicted is not None
    seen = data.evaluations
    assert predicted.n == (seen["predicted_accuracy"].notna() & (seen["status"] == "ok")).sum()


def test_evaluations_to_match_random(data: ReportData) -> None:
    traces = {"linas": [1.0, 4.0, 6.0], "random": [2.0, 3.0, 5.0]}
    assert evaluations_to_match_random(replace(data, hypervolume=traces)) == 3
    assert evaluations_to_match_random(replace(data, hypervolume={**traces, "linas": [1.0, 2.0]})) is None
    assert evaluations_to_match_random(replace(data, hypervolume={"linas": [1.0]})) is None
