import pytest

from ard.representatives import RetrieveRepresentatives
from ard.run import Run
from ard.types import UserError


@pytest.mark.parametrize("p", [1, 2])
def test_lists_too_short_for_a_score_are_refused(p, tmp_path):
    said = f"^p is {p}, and fewer than 3 clips have no spread that m could be measured by: give p 3 or more$"
    with pytest.raises(UserError, match=said):
        RetrieveRepresentatives(p)(Run(tmp_path).cell(0, None))
    assert list(tmp_path.iterdir()) == []
