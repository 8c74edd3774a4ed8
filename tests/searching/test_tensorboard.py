"""What TensorBoard is told of a search."""

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from hwnas import search
from hwnas.errors import MissingExtraError
from hwnas.searching.tensorboard import TensorBoard
from tests.searching.problems import at_most, objectives, toy_space


def test_it_is_an_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'hwnas\[tensorboard\]'"):
        TensorBoard(tmp_path)


@pytest.mark.skipif(find_spec("tensorboard") is None, reason="the extra tensorboard is not installed")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_its_scalars_are_those_of_the_search(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = TensorBoard(tmp_path)
    result = search(toy_space(), objectives(), at_most(9), evaluations=30, start=10, watch=board)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    trace = result.hypervolume_trace()
    written = {event.step: event.value for event in events.Scalars("hypervolume")}
    assert written == pytest.approx({n: trace[n - 1] for n in range(10, 31)})
    assert events.Scalars("best/accuracy")[-1].value == pytest.approx(result.front.points[:, 0].max())
    assert events.Scalars("best/cost")[-1].value == result.front.points[:, 1].min()
    assert {event.step for event in events.Scalars("kendall_tau/accuracy")} >= {20, 30}
