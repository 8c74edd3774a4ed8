"""The examination of this machine."""

from __future__ import annotations

import os

import psutil
import pytest

from hwnas.latency import doctor


def test_a_system_that_hides_its_load_is_examined(monkeypatch: pytest.MonkeyPatch) -> None:
    def hidden() -> None:
        raise PermissionError(13, "Permission denied", "/proc/stat")

    monkeypatch.setattr(psutil, "cpu_times", hidden)
    monkeypatch.setattr(os, "getloadavg", hidden)
    values = {finding.name: finding.value for finding in doctor.examine()}
    assert values["load"] == values["steal"] == "not visible"
