"""Every named predictor keeps the published rules. A newcomer joins by its line in PREDICTORS."""

import pytest

from hwnas.errors import SearchError
from hwnas.predictors import PREDICTORS, get_predictor
from hwnas.testing import PREDICTOR_RULES, Rule


@pytest.mark.parametrize("rule", PREDICTOR_RULES, ids=str)
@pytest.mark.parametrize("name", PREDICTORS)
def test_rule(name: str, rule: Rule) -> None:
    rule(name)


@pytest.mark.parametrize("name", PREDICTORS)
def test_its_name_is_the_one_in_the_list(name: str) -> None:
    assert get_predictor(name).name == name


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(
        SearchError, match=r"'forest'.*ridge, quadratic, svr, gp, xgboost, mlp, ensemble, auto"
    ):
        get_predictor("forest")
