import re

import pytest
import torch

from ard.embedding import Clap
from ard.naming import EndpointChat
from ard.run import Run
from ard.steering import features_by_name
from ard.steering.features import read_numbers

NAMES = ["rain", "happy voice", None, "sad voice", "glad voice", "happy voice"]


class LetterClap(Clap):
    """Text embeddings that count letters, so that like words are close."""

    def hear(self, prepared):
        raise NotImplementedError

    def _read(self, texts):
        letters = [[text.count(letter) + 0.01 for letter in "abcdefghijklmnopqrstuvwxyz"] for text in texts]
        return torch.tensor(letters)


@pytest.fixture
def cell(tmp_path):
    cell = Run(tmp_path).cell(3, 8)
    features = torch.tensor([7, 5, 9, 3, 1, 2])  # most monosemantic first
    selection = {"features": features, "m": torch.arange(6, 0, -1.0), "top_ids": torch.zeros(6, 4, dtype=torch.int64)}
    cell.save_tensors("selections", {f"ard/0/{key}": tensor for key, tensor in selection.items()})
    write_names(cell, NAMES)
    return cell


def write_names(cell, names):
    cell.save_rows("names", [{"scorer": "ard", "draw": 0, "name": name} for name in names])


def test_the_closest_names_come_first_and_of_equal_ones_the_more_monosemantic(cell):
    found = features_by_name(cell, "happy voice", LetterClap())
    assert [feature.feature for feature in found.features][:2] == [5, 2]
    assert found.features[0].cosine == pytest.approx(1, abs=1e-5)
    assert {feature.feature for feature in found.features} == {7, 5, 3, 1, 2}  # not the nameless
    assert found.by == "CLAP text cosine"


@pytest.mark.slow
@pytest.mark.parametrize(("said", "picked"), [("2, 1", [2, 5]), ("1,1,3.", [5, None]), ("None.", [])])
def test_a_chat_picks_among_the_closest(cell, misbehave, tmp_path, said, picked):
    server = misbehave(then=f"say:{said}")
    chat = EndpointChat(server.base_url, "picker", cache=tmp_path / "picked.jsonl")
    found = features_by_name(cell, "happy voice", LetterClap(), chat, shortlist=3)
    assert found.by == "picker, of the 3 closest by CLAP"
    assert len(found.features) == len(picked)
    for feature, expected in zip(found.features, picked, strict=True):
        assert expected in (None, feature.feature)
    lines = server.asked[0]["messages"][0]["content"]
    assert re.findall(r"^(\d)\. ", lines, re.MULTILINE) == ["1", "2", "3"]
    features_by_name(cell, "happy voice", LetterClap(), chat, shortlist=3)
    assert len(server.asked) == 1


@pytest.mark.slow
@pytest.mark.parametrize("said", ["the first", "1 and 2", "4", "0", "", "1;2", "happy voice"])
def test_what_is_no_list_of_numbers_leaves_claps_order_and_says_so(cell, misbehave, tmp_path, said):
    chat = EndpointChat(misbehave(then=f"say:{said}").base_url, "picker", cache=tmp_path / "picked.jsonl")
    found = features_by_name(cell, "happy voice", LetterClap(), chat, shortlist=3)
    assert found.features == features_by_name(cell, "happy voice", LetterClap()).features
    assert found.by.startswith("CLAP text cosine: ")
    assert ("picker gave no answer" if said == "" else "the answer of picker could not be read") in found.by


def test_without_names_there_is_nothing_to_choose_from(cell):
    write_names(cell, [None] * len(NAMES))
    assert features_by_name(cell, "happy voice", LetterClap()).features == []


def test_numbers_are_read_in_their_order():
    assert read_numbers(" 3, 1 ,2", 3) == [3, 1, 2]
    assert read_numbers("none", 3) == []
    assert read_numbers("3, 4", 3) is None


def test_a_feature_that_fires_in_no_unseen_clip_is_passed_over(cell):
    fires = {7: 3, 5: 0, 9: 0, 3: 1, 1: 1, 2: 4}
    cell.save_rows("detection", [{"feature": feature, "n_active_unseen": count} for feature, count in fires.items()])
    found = features_by_name(cell, "happy voice", LetterClap())
    assert [feature.feature for feature in found.features][:1] == [2]
    assert {feature.feature for feature in found.features} == {7, 3, 1, 2}
