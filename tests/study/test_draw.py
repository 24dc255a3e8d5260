import itertools

import pytest

from ard.run import Run
from ard.study import draw_concepts
from ard.types import UserError

from .conftest import write_concepts


def test_a_draw_is_of_named_selected_concepts_and_of_its_seed(cells):
    drawn = draw_concepts(cells, 5, seed=1)
    assert drawn == draw_concepts(cells, 5, seed=1)
    assert drawn != draw_concepts(cells, 5, seed=2)
    assert sorted(concept.method for concept in drawn) == ["AR&D"] * 5 + ["Poly. Feats."] * 5
    assert [concept.method for concept in drawn] != sorted(concept.method for concept in drawn)
    assert len({(concept.method, concept.feature) for concept in drawn}) == 10
    for concept in drawn:
        assert concept.feature > 0
        assert concept.name.endswith(str(concept.feature))
        assert len(concept.clips) == len(concept.captions) == 4
        assert concept.expansion == (8 if concept.method == "AR&D" else None)


def test_keys_tell_nothing_of_the_method(cells):
    drawn = draw_concepts(cells, 17, seed=0)
    assert all(len(concept.key) == 12 and set(concept.key) <= set("0123456789abcdef") for concept in drawn)
    assert len({concept.key for concept in drawn}) == len(drawn)
    by_key = [concept.method for concept in sorted(drawn)]
    assert sum(a != b for a, b in itertools.pairwise(by_key)) > 5  # not in two blocks


def test_a_method_with_fewer_names_gives_all_it_has(cells):
    drawn = draw_concepts(cells, 1000, seed=0)
    methods = [concept.method for concept in drawn]
    assert (methods.count("AR&D"), methods.count("Poly. Feats.")) == (25, 16)


def test_nothing_to_draw_is_refused(tmp_path, cells):
    with pytest.raises(UserError, match="a study cannot have 0 concepts"):
        draw_concepts(cells, 0, seed=0)
    nameless, not_there = (Run(tmp_path / name).cell(3, 8) for name in ("nameless", "not there"))
    write_concepts(nameless, "x", [None, None, " "])
    for cell in (nameless, not_there):
        with pytest.raises(UserError, match=r"no concept of this run has a name .*: run `ard table 2`"):
            draw_concepts([cell], 5, seed=0)
