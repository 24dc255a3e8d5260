"""Answers of a real tiny model: each asked once, wherever the asking was stopped."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from functools import partial

import numpy as np
import pytest
import torch

from ard.audio import read_clips, shards, write_audio_shards
from ard.audiollm import AudioLLM, load_audiollm
from ard.sae import PolyFeatures, TopKSAE
from ard.steering import Asked, Condition, Interview, Procedure, SteeringTask, find_roles, steer
from ard.types import Clip
from tests.test_ranks import Threads

CONDITIONS = [
    Condition("a dog", None),
    Condition("a dog", {}),
    Condition("a dog", {3: 9.0, 8: 5.0}),
    Condition("rain", {3: 9.0}),
    Condition("a dog", None, 5 * torch.randn(32, generator=torch.Generator().manual_seed(0))),
]
PROCEDURE = Procedure(max_new_tokens=4, clips_per_batch=3)
SCRIPT = """
import sys
from pathlib import Path
from tests.steering.test_interview import CONDITIONS, ask
ask(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
"""


def coder():
    return TopKSAE(32, 64, k=4, generator=torch.Generator().manual_seed(0))


def interview(model, answers, dictionary=None, layer=1, procedure=PROCEDURE):
    return Interview(load_audiollm(model), dictionary or coder(), layer, answers=answers, procedure=procedure)


def ask(model, audio, answers):
    return interview(model, answers)(audio, [clip.id for clip in read_clips(audio)], CONDITIONS)


@pytest.fixture(scope="module")
def audio(tmp_path_factory):
    rng = np.random.default_rng(0)
    lengths = rng.integers(5000, 16000, 10)
    clips = (Clip(f"c/{i}", 0.2 * rng.standard_normal(n).astype(np.float32), 16000, "t") for i, n in enumerate(lengths))
    folder = tmp_path_factory.mktemp("interview") / "audio"
    write_audio_shards(clips, folder, clips_per_shard=4)
    return folder


@pytest.fixture(scope="module")
def whole(tiny_audiollm, audio, tmp_path_factory):
    """An unbroken run: its answers, and the file of them."""
    path = tmp_path_factory.mktemp("whole") / "answers.jsonl"
    return ask(tiny_audiollm, audio, path), path


@pytest.fixture
def asked(monkeypatch):
    """Count the answers that a model gives."""
    counts = []
    generate = AudioLLM.generate
    monkeypatch.setattr(
        AudioLLM, "generate", lambda self, p, **kw: counts.append(len(p.valid)) or generate(self, p, **kw)
    )
    return counts


def keys(path):
    return [json.loads(line)["key"] for line in path.read_bytes().splitlines() if line.endswith(b"}")]


@pytest.mark.slow
def test_answers_are_those_of_the_steered_model(tiny_audiollm, audio, whole):
    model, clips = load_audiollm(tiny_audiollm), list(read_clips(audio))
    for condition, answers in zip(CONDITIONS, whole[0], strict=True):
        for clip, answer in zip(clips, answers, strict=True):
            with ExitStack() as stack:
                if not condition.is_unsteered:
                    dictionary = None if condition.clamp is None else coder()
                    stack.enter_context(steer(model, dictionary, 1, condition.clamp, add=condition.add))
                assert model.generate([clip], [condition.prompt], max_new_tokens=4) == [answer]
    assert len({tuple(answers) for answers in whole[0]}) == 5


def test_nothing_is_asked_twice(tiny_audiollm, audio, whole, asked):
    answers, path = whole
    assert len(keys(path)) == len(set(keys(path))) == 10 * len(CONDITIONS)
    assert ask(tiny_audiollm, audio, path) == answers
    assert asked == []


def test_conditions_that_are_equal_are_asked_for_once(tiny_audiollm, audio, asked, tmp_path):
    made = interview(tiny_audiollm, tmp_path / "answers.jsonl")
    first, second = made(
        audio, ["c/0", "c/1"], [Condition("rain", {3: 9.0, 8: 5.0}), Condition("rain", {8: 5.0, 3: 9.0})]
    )
    assert first == second
    assert asked == [2]


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_was(tiny_audiollm, audio, whole, asked, tmp_path):
    path = tmp_path / "answers.jsonl"
    (tmp_path / "script.py").write_text(SCRIPT, encoding="utf-8")
    env = {**os.environ, "PYTHONPATH": os.getcwd()}
    command = [sys.executable, str(tmp_path / "script.py"), tiny_audiollm, str(audio), str(path)]
    process = subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None and (not path.is_file() or len(keys(path)) < 5):
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = len(keys(path))
    assert 5 <= before < 10 * len(CONDITIONS)
    with path.open("ab") as file:
        file.write(b'{"key": "half a li')
    assert ask(tiny_audiollm, audio, path) == whole[0]
    assert sum(asked) == 10 * len(CONDITIONS) - before
    assert sorted(set(keys(path))) == sorted(keys(path)) == sorted(keys(whole[1]))


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 2, 4, 7])
def test_wherever_it_fails_the_rest_is_asked_once(tiny_audiollm, audio, whole, monkeypatch, number, tmp_path):
    path, given, generate = tmp_path / "answers.jsonl", [], AudioLLM.generate

    def failing(self, prompts, **settings):
        if len(given) == number:
            raise RuntimeError("the power is cut")
        given.append(len(prompts.valid))
        return generate(self, prompts, **settings)

    monkeypatch.setattr(AudioLLM, "generate", failing)
    with pytest.raises(RuntimeError, match="the power is cut"):
        ask(tiny_audiollm, audio, path)
    number = 1000
    assert ask(tiny_audiollm, audio, path) == whole[0]
    assert sum(given) == len(keys(path)) == 10 * len(CONDITIONS)


@pytest.mark.slow
def test_what_an_answer_depends_on_is_asked_anew(tiny_audiollm, audio, whole, asked, tmp_path):
    _, path = whole
    ids = [clip.id for clip in read_clips(audio)]
    plain, clamped = Condition("a dog", None), Condition("a dog", {3: 9.0, 8: 5.0})
    path = tmp_path / "answers.jsonl"
    path.write_bytes(whole[1].read_bytes())
    other = TopKSAE(32, 64, k=4, generator=torch.Generator().manual_seed(1))
    settings = [coder(), coder()]
    settings[0].k, settings[1].pre_bias = coder().k - 1, not coder().pre_bias
    for changed in (
        interview(tiny_audiollm, path, other),
        *(interview(tiny_audiollm, path, dictionary) for dictionary in settings),
        interview(tiny_audiollm, path, PolyFeatures(32)),
        interview(tiny_audiollm, path, layer=2),
        interview(tiny_audiollm, path, procedure=Procedure("audio", "prefill", False, 4, 3)),
        interview(tiny_audiollm, path, procedure=Procedure("all", "prefill", True, 4, 3)),
    ):
        asked.clear()
        changed(audio, ids, [plain])
        assert asked == []  # the model as it is knows of no dictionary
        changed(audio, ids, [clamped])
        assert sum(asked) == 10
    asked.clear()
    interview(tiny_audiollm, path)(audio, ids, [Condition("a dog", {8: 5.0, 3: 9.0})])  # the same, said otherwise
    interview(tiny_audiollm, path, procedure=Procedure(max_new_tokens=4, clips_per_batch=64))(audio, ids, [clamped])
    assert asked == []
    interview(tiny_audiollm, path)(audio, ids, [Condition("a dog", {3: 9.0, 8: 5.5})])
    assert sum(asked) == 10
    longer = interview(tiny_audiollm, path)(audio, ids, [plain._replace(most_tokens=n) for n in (4, 12)])
    assert sum(asked) == 20  # 4 is what the procedure says
    assert all(more.startswith(answer) for answer, more in zip(*longer, strict=True))
    assert longer[0] != longer[1]


def test_ranks_hear_and_measure_what_one_process_does_to_the_last_bit(tiny_audiollm, audio, tmp_path):
    ids = [clip.id for clip in read_clips(audio)]
    task = SteeringTask("sad", "happy", "happy or sad", ["happy", "sad"], "a happy voice")
    procedure = Procedure("audio", clips_per_batch=4)
    values = dict.fromkeys(range(0, 64, 16), 5.0)

    def measure(asked):
        clips = asked.clips(audio, ids)
        about = Asked(task, clips, ["happy", "sad"] * 5, procedure)
        roles = find_roles(partial(asked.spread, audio), about, by_name=list(values), values=values, names={})
        return asked.hears(audio, ids), asked.hears(audio, ids[:3], silenced=True), [str(role) for role in roles]

    alone = measure(interview(tiny_audiollm, tmp_path / "alone.jsonl", procedure=procedure))
    threads, together = Threads(2), []
    of_ranks = [interview(tiny_audiollm, tmp_path / "answers.jsonl", procedure=procedure) for _ in threads.ranks]
    for one, ranks in zip(of_ranks, threads.ranks, strict=True):
        one.ranks = ranks
    captured = [count_captured(one.model) for one in of_ranks]
    failed = threads.run(
        lambda ranks, share: together.extend(measure(of_ranks[0])),
        lambda ranks, *task: of_ranks[ranks.rank].work(*task),
    )
    assert failed == [None, None]
    for found, expected in zip(together[:2], alone[:2], strict=True):
        assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    assert len(alone[2]) == len(values)
    assert together[2] == alone[2]
    assert all(captured)


def count_captured(model):
    """The numbers of clips that a model's layers are captured of, as a list that grows."""
    counts, capture = [], model.capture
    model.capture = lambda clips, layers: counts.append(len(layers)) or capture(clips, layers)
    return counts


def test_only_the_clips_of_a_question_are_decoded(tiny_audiollm, audio, tmp_path, monkeypatch):
    decoded, decode = [], shards.decode
    monkeypatch.setattr(shards, "decode", lambda sound, name: decoded.append(name) or decode(sound, name))
    made = interview(tiny_audiollm, tmp_path / "answers.jsonl")
    for _ in range(2):
        made(audio, ["c/7", "c/2"], [Condition("rain", None)])
        assert decoded == ["c/7", "c/2"]
    made(audio, ["c/7", "c/2", "c/9", "c/0"], [Condition("rain", None)])  # batches of three, one of which lacks answers
    assert decoded == ["c/7", "c/2", "c/7", "c/2", "c/9", "c/0"]


def test_surprise_is_the_models_own_cross_entropy_of_the_answer(tiny_audiollm, audio, tmp_path):
    made = interview(tiny_audiollm, tmp_path / "answers.jsonl")
    clips = list(read_clips(audio))
    said = {clip.id: answer for clip, answer in zip(clips, ["a dog", "", "happy or sad", "rain"] * 3, strict=False)}
    found = made.surprise(audio, "rain", said)
    tokenizer = made.model.prompter.processor.tokenizer
    for clip, (log_p, number) in zip(clips, found, strict=True):
        tokens = tokenizer(said[clip.id], add_special_tokens=False).input_ids
        assert number == len(tokens)
        if not tokens:
            assert log_p == 0
            continue
        prompts = made.model.prompter([clip], ["rain"])
        ids = torch.cat([prompts.features["input_ids"], torch.tensor([tokens])], dim=1)
        features = {**prompts.features, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
        with torch.inference_mode():
            logits = made.model.model(**features).logits[0, -len(tokens) - 1 : -1]
        expected = -torch.nn.functional.cross_entropy(logits, torch.tensor(tokens), reduction="sum")
        assert log_p == pytest.approx(float(expected), abs=1e-4)
    lines = len(keys(tmp_path / "answers.jsonl"))
    assert made.surprise(audio, "rain", said) == found
    assert lines == len(keys(tmp_path / "answers.jsonl")) == 10
