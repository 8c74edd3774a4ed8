"""Every named device keeps the published rules. A new one joins by being registered in DEVICES."""

from __future__ import annotations

import pytest

from hwnas.errors import MissingExtraError
from hwnas.latency.devices import DEVICES, get_device
from hwnas.testing import DEVICE_RULES, NotApplicable, Rule
from tests.latency.devices.board import running_board


@pytest.fixture(scope="module")
def board_address(tmp_path_factory):
    """The address of a board with an sshd of its own; skips where there is none."""
    with (
        pytest.MonkeyPatch.context() as patch,
        running_board(tmp_path_factory.mktemp("board"), patch) as board,
    ):
        yield f"ssh://{board.address()}"


@pytest.fixture(params=[pytest.param(n, marks=pytest.mark.gpu) if "cuda" in n else n for n in DEVICES])
def name(request):
    if request.param == "ssh":
        return request.getfixturevalue("board_address")
    try:
        get_device(request.param)
    except MissingExtraError as error:
        pytest.skip(str(error))
    return request.param


@pytest.mark.parametrize("rule", DEVICE_RULES, ids=str)
def test_rule(name: str, rule: Rule) -> None:
    if name == "torch-cuda" and rule.name == "two_threads_have_another_statistic":
        pytest.skip("one thread launches; more are refused")
    try:
        rule(name)
    except NotApplicable as reason:
        pytest.skip(str(reason))


def test_the_runtime_has_the_name_of_the_device(name: str) -> None:
    runtime = get_device(name).identity.runtime
    assert runtime["name"] == ("onnxruntime" if name.startswith("ssh://") else name)
