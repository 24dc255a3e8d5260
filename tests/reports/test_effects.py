import re

import pytest

from ard.cli import main
from ard.reports import write_report
from ard.reports.concepts import read_concepts
from ard.reports.effects import HEIGHT, LONGEST, drawn, effect_drawings
from ard.run import Run
from tests.reports.conftest import concept, write_concepts


def role(feature, auroc, effect, kind, **changes):
    """A row of ``effects.parquet``, of the task `sad to happy` if nothing else is said."""
    row = {"task": "sad to happy", "source": "sad", "target": "happy", "feature": feature, "name": f"name {feature}"}
    row |= {"by": "name", "kind": kind, "auroc": auroc, "q_value": 0.01, "effect": effect, "effect_by_chance": 0.1}
    row |= {"effect_low": effect - 0.05, "effect_high": effect + 0.05, "num_clips": 9, "output_score": 0.25}
    return row | changes


ROLES = [
    role(5, 0.9, 0.4, "both"),
    role(7, 0.5, 0.2, "speaks"),
    role(8, 0.0, -0.05, "hears", name=None),
    role(9, 0.4, 0.0, "neither"),
]


def write_effects(run, rows):
    Run(run).cell(3, 8).save_rows("effects", rows)


def test_features_stand_where_their_numbers_say():
    made = drawn(ROLES)
    dots = {int(re.findall(r"\((\d+)\)", dot.title)[0]): dot for dot in made.dots}
    assert [dots[feature].x for feature in (5, 7, 8)] == [pytest.approx(36 + share * 276) for share in (0.9, 0.5, 0)]
    middle = (8 + HEIGHT) / 2
    assert dots[9].y == middle
    assert middle - dots[5].y == pytest.approx(2 * (middle - dots[7].y)) == pytest.approx(-8 * (middle - dots[8].y))
    assert dots[5].y > 8
    top, height = made.chance
    assert (top, height) == (pytest.approx(middle - (middle - dots[7].y) / 2), pytest.approx(middle - dots[7].y))
    assert [mark.label for mark in made.effects] == ["+0.2", "0", "-0.2"]
    assert made.effects[0].at == pytest.approx(dots[7].y)
    assert made.counts == [("both", 1), ("speaks", 1), ("hears", 1), ("neither", 1)]
    assert made.rows[0] == ("5", "name 5", "both", "0.90", "+0.400 [+0.350, +0.450]", "0.250", "name")


def test_names_cover_neither_dots_nor_one_another():
    crowd = [role(n, 0.2 + n / 1000, 0.3 + n / 1000, "both", name="a name of a feature" * 3) for n in range(30)]
    made = drawn([*crowd, *ROLES])
    shown = [dot for dot in made.dots if dot.label]
    assert 2 <= len(shown) < len(made.dots)
    assert {dot.label for dot in shown} >= {"name 5", "feature 8"}
    assert all(len(dot.label) <= LONGEST for dot in shown)
    assert not any(dot.label for dot in made.dots if dot.kind == "neither")


def test_without_any_effect_there_is_still_a_plot():
    made = drawn([role(5, 0.5, 0.0, "neither", effect_by_chance=0.0)])
    assert made.dots[0].y == (8 + HEIGHT) / 2
    assert made.chance[1] == 0


def test_the_page_has_a_plot_for_every_task_and_no_section_without_the_file(run):
    assert 'id="effects"' not in write_report(run).read_text(encoding="utf-8")
    assert effect_drawings(Run.load(run)) == []
    other = {"task": "female to <male>", "source": "female", "target": "<male>"}
    write_effects(run, [*ROLES, role(5, 0.1, -0.3, "both", **other)])
    page = write_report(run).read_text(encoding="utf-8")
    section = page[page.index('id="effects"') : page.index("</section>", page.index('id="effects"'))]
    assert section.count('class="dose effects"') == 2
    assert section.count("<circle") == 5
    assert "Sad → happy" in section
    assert "Female → &lt;male&gt;" in section
    assert "<male>" not in section
    own = (run / "report/concepts/3-5.html").read_text(encoding="utf-8")
    assert "It hears happy, female. It speaks for happy, female." in " ".join(own.split())
    assert own.count("<td>both</td>") == 2
    (run / "layer-3/e8/effects.parquet").unlink()
    write_report(run)
    assert "What it does" not in (run / "report/concepts/3-5.html").read_text(encoding="utf-8")


def test_concepts_say_what_they_hear_and_speak_for_only_where_it_was_measured(run, capsys):
    ids = ["a", "b", "c", "d"]
    write_concepts(run, [concept(5, 9.0, ids), concept(7, 8.0, ids), concept(8, 7.0, ids), concept(6, 6.0, ids)])
    cell = Run.load(run).own
    main(["concepts", "--run", str(run)])
    assert "speaks" not in capsys.readouterr().out
    assert "hears" not in read_concepts(cell)[0]
    write_effects(run, ROLES)
    by_feature = {row["feature"]: row for row in read_concepts(cell)}
    told = {feature: (row["hears"], row["speaks"]) for feature, row in by_feature.items()}
    assert told == {5: (["happy"], ["happy"]), 7: ([], ["happy"]), 8: (["sad"], []), 6: ([], [])}
    assert by_feature[5]["effect sad to happy"] == 0.4
    assert "effect sad to happy" not in by_feature[6]
    main(["concepts", "--run", str(run)])
    lines = capsys.readouterr().out.splitlines()
    heads = next(line for line in lines if "feature" in line)
    (line,) = (line for line in lines if re.match(r" *5 ", line))
    assert line[heads.index("hears") :].split()[:2] == ["happy", "happy"]
