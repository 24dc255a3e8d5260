"""Chats against a real served model, a real model in process, and a server that does what it should not."""

import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from ard.naming import EndpointChat, Reply, TransformersChat
from ard.naming.chat import MOST_IN_A_ROW
from ard.types import UserError

SECRET = "sk-very-secret-0123456789"
PROMPTS = [f"Describe the common sound among these captions: a dog, rain {i}" for i in range(7)]


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)


@pytest.fixture
def chat(tmp_path):
    """Make a chat at an endpoint that waits for nothing long."""

    def make(base_url, **settings):
        quick = {"timeout_s": 5.0, "max_retries": 2, "concurrency": 3, "cache": tmp_path / "answers.jsonl"}
        return EndpointChat(base_url, "a-model", **(quick | settings))

    return make


@pytest.mark.slow
def test_a_served_model_says_what_it_says_in_process(served, tiny_chat, tmp_path):
    settings = {"cache": tmp_path / "served.jsonl", "max_tokens": 9}
    endpoint = EndpointChat(served, tiny_chat, **settings)
    endpoint.check()
    answers = endpoint(PROMPTS)
    alone = TransformersChat(tiny_chat, prompts_per_batch=1, device="cpu", cache=tmp_path / "alone.jsonl", max_tokens=9)
    together = TransformersChat(
        tiny_chat, prompts_per_batch=3, device="cpu", cache=tmp_path / "together.jsonl", max_tokens=9
    )
    said = [reply.text for reply in answers]
    assert said == [reply.text for reply in alone(PROMPTS)] == [reply.text for reply in together(PROMPTS)]
    assert len({text for text in said if text}) > 1
    whole = [prompt for prompt, text in zip(PROMPTS, said, strict=True) if text]
    kept = EndpointChat("http://127.0.0.1:9/v1", tiny_chat, **settings)(whole)  # no server is asked
    assert [reply.text for reply in kept] == [text for text in said if text]


@pytest.mark.slow
def test_a_served_model_refuses_what_it_is_not(served, tmp_path):
    with pytest.raises(
        UserError, match=r"with model 'other' gives no answer to a first question .*status 400, .*pinned"
    ):
        EndpointChat(served, "other", cache=tmp_path / "answers.jsonl").check()


def test_answers_are_in_the_order_of_the_prompts_and_doubles_are_asked_once(misbehave, chat, tmp_path):
    server = misbehave()
    made = chat(server.base_url)
    answers = made([*PROMPTS, *PROMPTS[:2]])
    assert answers[:2] == answers[-2:]
    assert all(prompt[-6:] in answer.text for prompt, answer in zip(PROMPTS, answers, strict=False))
    assert len(server.asked) == len(PROMPTS)
    assert 1 < server.most_at_once <= 3
    assert server.asked[0]["temperature"] == 0
    made(PROMPTS)
    assert len(server.asked) == len(PROMPTS)
    chat(server.base_url, max_tokens=5)(PROMPTS[:1])  # another question
    assert len(server.asked) == len(PROMPTS) + 1


@pytest.mark.slow
@pytest.mark.parametrize("word", ["429", "500", "503", "half", "drop"])
def test_what_passes_is_asked_again(misbehave, chat, word):
    server = misbehave(word, word)
    assert len(chat(server.base_url, concurrency=1)(PROMPTS)) == len(PROMPTS)
    assert len(server.asked) == len(PROMPTS) + 2


PROBLEMS = {
    "429": "keeps failing (status 429",
    "500": "keeps failing (status 500",
    "401": "refuses the key in the environment variable OPENAI_API_KEY",
    "403": "refuses the key in the environment variable OPENAI_API_KEY",
    "404": "has no model 'a-model'",
    "402": "refuses a request (status 402",
    "half": "cannot be reached",
    "drop": "cannot be reached",
    "hang": "gave no answer within 0.5 s, asked 2 times",
    "cut": "does not answer with a chat completion",
    "empty": "does not answer with a chat completion",
    "html": "does not answer with a chat completion",
    "other": "does not answer with a chat completion",
    "list": "does not answer with a chat completion",
    '200:{"code": 429, "message": "slow down"}': 'keeps failing (status 429, {"error": {"code": 429',
    '200:{"type": "overloaded_error"}': "keeps failing (status 503",
    '200:{"code": "invalid_api_key"}': "refuses the key in the environment variable OPENAI_API_KEY",
    '200:"out of memory"': 'keeps failing (status 500, {"error": "out of memory"}',
}


@pytest.mark.slow
@pytest.mark.parametrize("word", PROBLEMS)
def test_what_does_not_pass_is_one_line_without_the_key_and_keeps_what_came(misbehave, chat, word, tmp_path, caplog):
    server = misbehave("good", "good", then=word)
    caplog.set_level(logging.DEBUG)
    with pytest.raises(UserError, match=re.escape(PROBLEMS[word])) as raised:
        chat(server.base_url, max_retries=1, timeout_s=0.5, concurrency=1)(PROMPTS)
    said = str(raised.value)
    assert server.base_url in said
    assert "\n" not in said
    assert raised.value.__cause__ is raised.value.__context__ is None
    kept = (tmp_path / "answers.jsonl").read_text(encoding="utf-8")
    assert kept.count("\n") == 2
    for text in (said, kept, caplog.text, repr(raised.value)):
        assert SECRET not in text
    healthy = misbehave()
    assert len(chat(healthy.base_url)(PROMPTS)) == len(PROMPTS)
    assert len(healthy.asked) == len(PROMPTS) - 2


def test_a_server_that_is_not_there_says_how_to_start_one(chat):
    with pytest.raises(UserError, match=r"cannot be reached .*vllm serve a-model"):
        chat("http://127.0.0.1:9/v1", max_retries=0).check()


@pytest.mark.slow
def test_an_endpoint_that_wants_a_key_says_where_to_put_it(misbehave, chat, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(UserError, match="needs a key, and there is none in the environment variable OPENAI_API_KEY"):
        chat(misbehave("401").base_url)(["hello"])
    monkeypatch.setenv("OTHER_KEY", SECRET)
    with pytest.raises(UserError, match="refuses the key in the environment variable OTHER_KEY"):
        chat(misbehave("401").base_url, key_variable="OTHER_KEY")(["hello"])


@pytest.mark.slow
def test_an_answer_that_repeats_the_key_is_kept_without_it(misbehave, chat, tmp_path):
    assert chat(misbehave(then="echo").base_url)(["hello"]) == [Reply("you sent Bearer [key]")]
    assert SECRET not in (tmp_path / "answers.jsonl").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_word_in_place_of_a_key_is_not_looked_for_in_answers(misbehave, chat, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "e")
    assert chat(misbehave(then="echo").base_url)(["hello"]) == [Reply("you sent Bearer e")]


@pytest.mark.slow
def test_a_server_that_wants_an_hour_is_not_waited_for(misbehave, chat):
    server = misbehave("hour")
    with pytest.raises(UserError, match=r"keeps failing \(status 429"):
        chat(server.base_url)(["hello"])
    assert len(server.asked) == 1


def test_a_key_that_cannot_be_sent_is_not_shown(misbehave, chat, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", f"{SECRET}\nexport X=1")
    with pytest.raises(UserError, match="OPENAI_API_KEY has characters that no key has") as raised:
        chat(misbehave().base_url)(["hello"])
    assert SECRET not in str(raised.value)


NO_ANSWERS = {
    "null": "the answer is empty: finish_reason stop",
    "blank": "the answer is empty: finish_reason stop",
    "no part": "the answer is empty: finish_reason stop",
    "called": "the answer is empty: finish_reason tool_calls",
    "filtered": "the answer was withheld: finish_reason content_filter",
    "cut short": "the answer is cut short: finish_reason length, max_tokens 128",
    "say:<think>Dogs": "the answer holds nothing but thoughts",
}


@pytest.mark.slow
@pytest.mark.parametrize("word", NO_ANSWERS)
def test_what_is_no_whole_answer_says_why_and_is_asked_again_by_the_next_run(misbehave, chat, word, tmp_path):
    server = misbehave("good", word, then="good")
    first, second, third = chat(server.base_url, concurrency=1)(PROMPTS[:3])
    assert second == Reply(None, NO_ANSWERS[word])
    assert first.text
    assert third.text
    is_whole = word.startswith("say:")  # it was paid for
    assert (tmp_path / "answers.jsonl").read_text(encoding="utf-8").count("\n") == 2 + is_whole
    again = chat(misbehave().base_url)(PROMPTS[:3])
    assert (again[1].text is None) is is_whole


@pytest.mark.slow
@pytest.mark.parametrize("word", [*NO_ANSWERS, "400"])
def test_after_many_prompts_in_a_row_without_an_answer_it_stops_and_keeps_none_of_them(misbehave, chat, word, tmp_path):
    server = misbehave("good", then=word)
    with pytest.raises(UserError, match=rf"gives no answer to {MOST_IN_A_ROW} prompts in a row \(the ") as raised:
        chat(server.base_url, concurrency=1)([f"prompt {n}" for n in range(500)])
    assert NO_ANSWERS.get(word, "status 400, ") in str(raised.value)
    assert "raise max_tokens (128)" in str(raised.value)
    assert len(server.asked) == 1 + MOST_IN_A_ROW
    assert '"refused"' not in (tmp_path / "answers.jsonl").read_text(encoding="utf-8")


def test_a_few_failures_between_answers_stop_nothing(misbehave, chat):
    server = misbehave(*(["null"] * (MOST_IN_A_ROW - 1) + ["good"]) * 3)
    replies = chat(server.base_url, concurrency=1)([f"prompt {n}" for n in range(3 * MOST_IN_A_ROW)])
    assert sum(reply.text is not None for reply in replies) == 3


@pytest.mark.slow
@pytest.mark.parametrize("status", ["400", "413", "422", '200:{"code": "context_length_exceeded", "message": "long"}'])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_prompt_that_is_refused_is_one_without_an_answer_and_is_not_asked_again(misbehave, chat, status, place):
    plan = ["good"] * 3
    plan[place] = status
    server = misbehave(*plan)
    replies = chat(server.base_url, concurrency=1)(PROMPTS[:3])
    assert [reply.text is None for reply in replies] == [word == status for word in plan]
    number = status if status.isdigit() else "400"
    assert replies[place].reason.startswith(f"the prompt is refused: status {number}, ")
    assert SECRET not in replies[place].reason
    assert chat("http://127.0.0.1:9/v1")(PROMPTS[:3]) == replies


@pytest.mark.slow
def test_a_model_that_refuses_in_its_own_field_gives_no_answer(misbehave, chat):
    message = {"content": None, "refusal": "I cannot help with that."}
    choices = [{"index": 0, "finish_reason": "stop", "message": message}]
    server = misbehave(f"body:{json.dumps({'choices': choices})}")
    assert chat(server.base_url)(["hello"]) == [Reply(None, "the prompt is refused: I cannot help with that.")]


def test_an_answer_in_parts_is_its_text_without_its_thoughts(misbehave, chat):
    (reply,) = chat(misbehave("parts").base_url)(["hello"])
    assert reply.text.startswith("answer to")
    assert "cat" not in reply.text


@pytest.mark.slow
@pytest.mark.parametrize(
    "error", [{"code": 429, "message": "try again in 0.2s"}, {"type": "rate_limit_error", "retry_after": 0.2}]
)
def test_an_error_that_says_it_is_none_is_asked_again_when_it_says(misbehave, chat, error):
    server = misbehave(f"200:{json.dumps(error)}")
    started = time.monotonic()
    assert chat(server.base_url)(["hello"])[0].text
    assert 0.2 <= time.monotonic() - started < 0.45  # without a word from the server it waits half a second
    assert len(server.asked) == 2


def test_empty_answers_that_an_earlier_version_kept_are_asked_for_again(misbehave, chat, tmp_path):
    server = misbehave()
    chat(server.base_url)(["hello"])
    kept = json.loads((tmp_path / "answers.jsonl").read_text(encoding="utf-8"))
    (tmp_path / "answers.jsonl").write_text(json.dumps(kept | {"answer": ""}) + "\n", encoding="utf-8")
    assert chat(server.base_url)(["hello"])[0].text
    assert len(server.asked) == 2


@pytest.mark.parametrize("base_url", ["http://me:hunter2@host/v1", "http://host/v1?key=hunter2"])
def test_a_url_with_a_password_is_refused_without_showing_it(chat, base_url):
    with pytest.raises(UserError, match="base_url for 'host' holds a password or a query") as raised:
        chat(base_url)(["hello"])
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize("base_url", ["http://me:hunter2/v1", "http://[hunter2/v1"])
def test_a_url_that_cannot_be_taken_apart_is_refused_without_showing_it(chat, base_url):
    with pytest.raises(UserError, match="host or port of base_url cannot be read") as raised:
        chat(base_url).check()
    assert "hunter2" not in str(raised.value)
    assert raised.value.__cause__ is None


@pytest.mark.parametrize("base_url", ["localhost:8000/v1", "", "ftp://host/v1"])
def test_a_url_that_is_none_is_refused(chat, base_url):
    with pytest.raises(UserError, match=f"base_url {base_url!r} is not an endpoint"):
        chat(base_url).check()


def test_a_check_asks_only_where_nothing_is_known(misbehave, chat):
    server = misbehave()
    for _ in range(2):
        chat(server.base_url).check()
    assert len(server.asked) == 1


def test_what_was_kept_by_half_is_asked_again_and_the_rest_is_not(misbehave, chat, tmp_path):
    path, server = tmp_path / "answers.jsonl", misbehave()
    answers = chat(server.base_url, concurrency=1)(PROMPTS)
    kept = path.read_bytes()
    assert kept.count(b"\n") == len(PROMPTS)
    path.write_bytes(b'null\n"x"\n{"key": 1}\n\xff\xfe\n' + kept[:-9])  # the last line is not whole
    assert chat(server.base_url)(PROMPTS) == answers
    assert len(server.asked) == len(PROMPTS) + 1
    assert chat(server.base_url)(PROMPTS) == answers
    assert len(server.asked) == len(PROMPTS) + 1


KILLED = """
import sys
from ard.naming import EndpointChat
url, cache = sys.argv[1:]
EndpointChat(url, "a-model", cache=cache, concurrency=3)([f"prompt {i}" for i in range(40)])
"""


@pytest.mark.slow
def test_a_run_that_is_killed_pays_for_nothing_twice(misbehave, chat, tmp_path):
    cache = tmp_path / "answers.jsonl"
    first = misbehave(*["good"] * 17, then="hang")
    process = subprocess.Popen([sys.executable, "-c", KILLED, first.base_url, str(cache)], env=dict(os.environ))
    deadline = time.monotonic() + 120
    while (cache.read_bytes().count(b"\n") if cache.is_file() else 0) < 17 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    second = misbehave()
    answers = chat(second.base_url)([f"prompt {i}" for i in range(40)])
    assert len(answers) == 40
    asked = {json.dumps(body["messages"]) for body in second.asked}
    assert len(second.asked) == len(asked) == 40 - 17
    assert not asked & {json.dumps(body["messages"]) for body in first.answered}


def test_a_model_in_process_must_be_there_and_chat(tiny_roberta, tmp_path):
    for model, problem in ((str(tmp_path), "cannot be loaded"), (tiny_roberta, "has no chat template")):
        with pytest.raises(UserError, match=f"model '{model}' {problem}"):
            TransformersChat(model, cache=tmp_path / "answers.jsonl").check()


def test_a_model_in_process_needs_its_weights(tiny_chat, tmp_path):
    (tmp_path / "model").mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "config.json"):
        (tmp_path / "model" / name).symlink_to(f"{tiny_chat}/{name}")
    made = TransformersChat(str(tmp_path / "model"), device="cpu", cache=tmp_path / "answers.jsonl")
    made.check()
    with pytest.raises(UserError, match=r"cannot be loaded .* of an instruction model"):
        made(["hello"])


def test_a_model_in_process_that_lacks_a_tensor_is_refused(tiny_chat, tmp_path):
    shutil.copytree(tiny_chat, tmp_path / "model")
    weights = load_file(tmp_path / "model/model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, tmp_path / "model/model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"has no weights for 1 of its tensors, such as 'model.layers.1.mlp.up_proj"):
        TransformersChat(str(tmp_path / "model"), device="cpu", cache=tmp_path / "answers.jsonl")(["hello"])


def test_a_model_in_process_comes_from_the_hub_once(hub, no_network, tiny_chat, tmp_path):
    hub.repositories["someone/chat"] = {path.name: path.read_bytes() for path in Path(tiny_chat).iterdir()}
    made = TransformersChat("someone/chat", device="cpu", cache=tmp_path / "answers.jsonl", max_tokens=4)
    made.check()
    no_network()
    local = TransformersChat(tiny_chat, device="cpu", cache=tmp_path / "local.jsonl", max_tokens=4)
    assert made(PROMPTS[:2]) == local(PROMPTS[:2])
    started = time.monotonic()
    with pytest.raises(UserError, match=r"run `hf download someone/other`, or give a local folder of an instruction"):
        TransformersChat("someone/other", cache=tmp_path / "answers.jsonl").check()
    assert time.monotonic() - started < 5
