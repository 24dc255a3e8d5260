"""Whatever a generation_config says, answers are as they are asked for; a question holds no special token."""

import json
import shutil
from itertools import pairwise

import numpy as np
import pytest

from ard.audiollm import load_audiollm
from ard.types import Clip, UserError
from experiments.torture.robust import GENERATION_OPTIONS

CLIPS = [
    Clip(name, np.sin(np.arange(n) / 9).astype(np.float32), 16000, "t") for name, n in {"a": 9000, "b": 7000}.items()
]


def answers(folder, options):
    (folder / "generation_config.json").write_text(json.dumps(options), encoding="utf-8")
    return load_audiollm(str(folder)).generate(CLIPS, ["what is this", "a dog"], max_new_tokens=6)


@pytest.mark.parametrize("options", GENERATION_OPTIONS, ids=lambda options: next(iter(options)))
def test_an_option_of_search_or_output_changes_no_answer(tiny_audiollm, tmp_path, options):
    shutil.copytree(tiny_audiollm, tmp_path / "model")
    plain = json.loads((tmp_path / "model" / "generation_config.json").read_text(encoding="utf-8"))
    assert answers(tmp_path / "model", {**plain, **options}) == answers(tmp_path / "model", plain)


def test_an_option_that_says_which_token_is_likely_is_kept(tiny_audiollm, tmp_path):
    shutil.copytree(tiny_audiollm, tmp_path / "model")
    plain = json.loads((tmp_path / "model" / "generation_config.json").read_text(encoding="utf-8"))
    assert answers(tmp_path / "model", {**plain, "repetition_penalty": 50.0}) != answers(tmp_path / "model", plain)


@pytest.mark.parametrize("token", ["<|AUDIO|>", "<|im_end|>", "<|im_start|>", "<|endoftext|>"])
def test_a_special_token_in_a_question_is_refused_by_name(tiny_audiollm, token):
    model = load_audiollm(tiny_audiollm)
    with pytest.raises(UserError, match=r"holds '" + token.replace("|", r"\|") + "', which is a special token of the"):
        model.generate(CLIPS[:1], [f"what {token} is this"], max_new_tokens=2)


def test_answers_can_be_watched_token_by_token_and_are_the_same(tiny_audiollm):
    model, seen = load_audiollm(tiny_audiollm), []
    asked = (CLIPS, ["what is this", "a dog"], 6)
    answers = model.generate(*asked, watch=seen.append)
    assert answers == model.generate(*asked)
    assert seen[-1] == answers
    assert 1 < len(seen) <= 6
    for before, after in pairwise(seen):
        assert all(len(now) >= len(then) for then, now in zip(before, after, strict=True))


def test_whoever_watches_ends_an_answer_by_an_error(tiny_audiollm):
    model, seen = load_audiollm(tiny_audiollm), []

    def stop(texts):
        seen.append(texts)
        raise KeyError

    with pytest.raises(KeyError):
        model.generate(CLIPS, ["what is this", "a dog"], 6, watch=stop)
    assert len(seen) == 1
