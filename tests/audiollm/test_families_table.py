from pathlib import Path

import pytest

from experiments.families import PROPERTIES, encoder_table, table
from tests.audiollm.test_families import FAMILIES

HEAD = f"| family | {' | '.join(PROPERTIES)} |\n{'| --- ' * (1 + len(PROPERTIES))}|\n"


def case(name, family, inside=""):
    return f'<testcase name="test_{name}[{family}]">{inside}</testcase>'


def test_each_outcome_has_its_word():
    cases = [
        case("capture", "A"),
        case("mask", "A", "<failure>no</failure>"),
        case("batch", "A", '<skipped type="pytest.xfail" message="its encoder has no mask"/>'),
        case("generate", "A", '<skipped type="pytest.skip" message="not applicable: an encoder"/>'),
        case("intervene", "A", '<skipped type="pytest.skip" message="could not import timm"/>'),
        case("capture", "B", "<error>no</error>"),
        case("window", "A"),
        '<testcase name="test_other"/>',
    ]
    row = "| A | yes | **fails** | no: its encoder has no mask | not applicable | not run: could not import timm |"
    missing = " **missing** |"
    rows = f"{row}{missing * 4}\n| B | **fails** |{missing * 8}"
    assert table(f"<testsuite>{''.join(cases)}</testsuite>") == HEAD + rows


def test_a_run_without_these_tests_is_refused():
    with pytest.raises(ValueError, match=r"reports on no family: run pytest"):
        table("<testsuite/>")


def test_the_page_has_every_family_and_property():
    page, heading, encoders = Path("docs/families.md").read_text(encoding="utf-8").partition("## Audio encoders")
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| ")]
    assert [row[0].removeprefix("| ") for row in rows] == ["family", "---", *FAMILIES]
    assert [name.removesuffix(" |") for name in rows[0][1:]] == list(PROPERTIES)
    assert heading
    assert encoder_table() in encoders
