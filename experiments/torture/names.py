"""Language models and servers that answer other than asked: a concept has its namer's words for a name, or none."""

import json
import os
import subprocess
import sys
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from ard.cli import main
from ard.naming import Concepts, EndpointChat, LLMNamer, Name
from ard.naming.cleaning import LONGEST_LINE, LONGEST_NAME, MARKUP, clean_name
from ard.results import write_json
from ard.run import Run
from ard.types import UserError
from experiments.torture.case import Case

NUM_TEXTS = 2000
PIECES = r"""
Dog barking Answer: None assistant I’m AI sorry concept is dog the of , which The captions a an such as sound
<think> </think> </thinking> [THINK] [/THINK] <|channel|>analysis<|message|> <|channel|>final<|message|> assistantfinal
</s> <|eot_id|> <|im_start|>user <start_of_turn>model [INST] [/INST] <answer> </answer> <b> </b> <x> </x>
\boxed{ \text{ } { {"concept": "} ```json ``` ** &lt; &gt; &amp; &nbsp; &#8203; &#x27; İ ß 狗叫 。
( ) " ' ’ - _ 1. * # [ ] : , ! $ ~ ^ \ / | . ; – 10
"""
SPACES = ["\n", "\u2028", " ", "\u200b", "\u3164", "\ufeff", "\u0301", "\x1b[0m", "\x00", "\ud800"]
TEXTS = st.one_of(
    st.text(),
    st.lists(st.one_of(st.sampled_from([*PIECES.split(), *SPACES]), st.text(max_size=6)), max_size=14).map("".join),
    st.lists(st.sampled_from([*PIECES.split(), *SPACES]), max_size=14).map(" ".join),
)


def holds_its_contract(text: str) -> None:
    """Assert that a text is cleaned to None or to a name that is one: one short line that stays as it is."""
    name = clean_name(text)
    if name is None:
        return
    assert name == " ".join(name.split()), "it is not trimmed, or not one line"
    assert 1 <= len(name.split()) <= LONGEST_NAME, "it has too many words"
    assert len(name) <= LONGEST_LINE, "it is too long"
    assert any(map(str.isalpha, name)), "it has no letter"
    assert not any(unicodedata.category(character)[0] == "C" for character in name), "it has control characters"
    assert not set(name) & {*MARKUP, "\u200b", "\u3164", "\u115f", "\ufe0f", "\ufffd"}, "it has markup or blanks"
    assert clean_name(name) == name, "cleaned again, it is another"


def try_texts(num_texts: int) -> None:
    """Clean texts of markup, tokens, refusals and anything else, the same ones every time."""
    too_slow = [HealthCheck.too_slow]
    tried = settings(
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
        max_examples=num_texts,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=too_slow,
    )
    tried(given(TEXTS)(holds_its_contract))()


def _any_text(_: Path) -> str:
    try_texts(NUM_TEXTS)
    return f"{NUM_TEXTS} texts are names that hold, or none"


Answer = Callable[[int], tuple[int, dict[str, Any]]]  # of the n-th request: HTTP status and body


@contextmanager
def _server(answer: Answer) -> Iterator[tuple[str, list[Any]]]:
    """Serve on loopback; yield the base_url and the requests so far."""
    asked: list[Any] = []
    lock = Lock()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                asked.append(request)
                status, body = answer(len(asked) - 1)
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1", asked
        server.shutdown()


def _says(content: Any, finish: str = "stop") -> tuple[int, dict[str, Any]]:
    message = {"role": "assistant", "content": content}
    return 200, {"choices": [{"index": 0, "finish_reason": finish, "message": message}]}


def _name(scratch: Path, answer: Answer, num_concepts: int = 200, concurrency: int = 8) -> tuple[list[Name], int]:
    """Name concepts by a server on loopback; return the names and the number of requests."""
    with _server(answer) as (base_url, asked):
        chat = EndpointChat(base_url, "m", cache=scratch / "answers.jsonl", concurrency=concurrency, max_retries=2)
        captions = [[f"a dog barks {number}"] for number in range(num_concepts)]
        names = LLMNamer(chat)(Concepts(torch.zeros(num_concepts, 1, dtype=torch.int64), captions))
    return names, len(asked)


def _answer_is(content: Any, wanted: str | None, scratch: Path) -> str:
    names, _ = _name(scratch, lambda _: _says(content), 12)
    assert {name.name for name in names} == {wanted}, {name.name for name in names}
    assert all((name.reason is None) == (wanted is not None) for name in names)
    return f"the name is {wanted!r}" if wanted else f"no name: {names[0].reason}"


def _stops(answer: tuple[int, dict[str, Any]], said: str, scratch: Path) -> str:
    count = 0

    def counted(number: int) -> tuple[int, dict[str, Any]]:
        nonlocal count
        count = number + 1
        return answer

    with pytest.raises(UserError, match=said):
        _name(scratch, counted, 2153)
    assert count < 60, f"{count} requests"
    kept = scratch / "answers.jsonl"
    assert not kept.is_file(), kept.read_text(encoding="utf-8")
    return f"stops after {count} requests: {said}"


def _one_refused(scratch: Path) -> str:
    refusal = 400, {"error": {"message": "This model's maximum context length is 8192 tokens."}}
    names, num_asked = _name(scratch, lambda number: refusal if number == 50 else _says("Rain"), 200, concurrency=1)
    (unnamed,) = [name for name in names if name.name is None]
    assert "maximum context length" in str(unnamed.reason), unnamed
    again, num_again = _name(scratch, lambda _: _says("Rain"), 200)
    assert (num_asked, num_again) == (200, 0), (num_asked, num_again)
    assert [(name.name, name.reason) for name in again] == [(name.name, name.reason) for name in names]
    return f"199 names, one without, asked once: {unnamed.reason}"


def _asked_again(error: dict[str, Any], scratch: Path) -> str:
    names, num_asked = _name(scratch, lambda number: (200, {"error": error}) if number == 1 else _says("Rain"), 12)
    assert [name.name for name in names] == ["rain"] * 12
    assert num_asked == 13, num_asked
    return "asked again, 12 of 12 names"


def _passing(answer: tuple[int, dict[str, Any]], scratch: Path) -> str:
    names, _ = _name(scratch, lambda number: answer if number == 5 else _says("Rain"), 12)
    (unnamed,) = [name for name in names if name.name is None]
    again, num_again = _name(scratch, lambda _: _says("Rain"), 12)
    assert num_again == 1, num_again
    assert all(name.name for name in again)
    return f"{unnamed.reason}; the next run asks it again"


def _without_detection(scratch: Path) -> str:
    run = _catalogue(scratch)
    main(["concepts", "--run", str(run)])
    main(["concepts", "--run", str(run), "--sort", "detection"])
    return "the concepts are shown"


def _catalogue(scratch: Path) -> Path:
    """Write a run with one concept, which was not put to any test."""
    about = {"preset": "demo", "seed": 0, "model": "m", "data": "d", "p": 2, "num_selected": 1}
    about |= {"layer": 2, "expansion": 4, "layers": [2], "expansions": [4]}
    write_json(scratch / "run.json", about)
    cell = Run.load(scratch).cell(2, 4)
    concept = {"feature": 1, "name": "Vögel — 狗叫", "m": 0.5, "n_active": 3, "clap": 0.25, "captions": ["a bird"]}
    cell.save_rows("concepts", [concept])
    return scratch


def _other_locale(locale: dict[str, str], scratch: Path) -> str:
    run = _catalogue(scratch)
    command = [sys.executable, "-m", "ard", "concepts", "--run", str(run)]
    environment = {**os.environ, "PYTHONUTF8": "0", "PYTHONIOENCODING": "", **locale}
    ended = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert ended.returncode == 0, ended.stderr.decode(errors="replace")[-300:]
    (line,) = [line for line in ended.stdout.splitlines() if b"0.50" in line]
    return f"exit 0: {' '.join(line.decode('ascii', errors='backslashreplace').split())}"


RAW = {
    "thoughts without an opening tag": ("Okay, the user wants dogs.\n</think>\n\nDog barking", "dog barking"),
    "<thinking>": ("<thinking>Cats?</thinking>Dog barking", "dog barking"),
    "[THINK]": ("[THINK]Cats?[/THINK]Dog barking", "dog barking"),
    "channels of gpt-oss": (
        "<|channel|>analysis<|message|>Cats?<|end|><|start|>assistant<|channel|>final<|message|>Dog barking",
        "dog barking",
    ),
    "</s>": ("Dog barking</s>", "dog barking"),
    "<|eot_id|>": ("Dog barking<|eot_id|>", "dog barking"),
    "fenced JSON": ('```json\n{"concept": "Dog barking"}\n```', "dog barking"),
    "bare JSON": ('{"concept": "Dog barking"}', "dog barking"),
    "\\boxed{}": ("\\boxed{Dog barking}", "dog barking"),
    "a role word first": ("assistant\n\nDog barking", "dog barking"),
    "HTML entities": ("Dog&nbsp;barking", "dog barking"),
    "zero-width characters": ("\ufeffDog\u200b barking\u200d", "dog barking"),
    "a list of content parts": ([{"type": "text", "text": "Dog barking"}], "dog barking"),
    "a refusal with a curly apostrophe": ("I’m sorry, I can’t tell.", None),
    "As an AI language model": ("As an AI language model, I cannot hear.", None),
    "I apologize": ("I apologize, but no.", None),
    "Not applicable": ("Not applicable", None),
    "Cannot determine": ("Cannot determine", None),
}
ERRORS = {
    "rate limit": {"code": 429, "message": "try again in 0.1s"},
    "overloaded": {"type": "overloaded_error", "message": "Overloaded", "retry_after": 0.1},
}
CASES = [
    Case(f"clean_name on {NUM_TEXTS} texts of markup, tokens and anything else", _any_text),
    *(Case(f"the answer has {what}", partial(_answer_is, *raw), quick=True) for what, raw in RAW.items()),
    Case("content is null, 2153 prompts", partial(_stops, _says(None), "finish_reason stop"), quick=True),
    Case("content is empty, 2153 prompts", partial(_stops, _says(""), "finish_reason stop")),
    Case("reasoning ran out of tokens, 2153 prompts", partial(_stops, _says(None, "length"), "finish_reason length")),
    Case("a content filter, 2153 prompts", partial(_stops, _says("Dog", "content_filter"), "content_filter")),
    Case("a tool call, 2153 prompts", partial(_stops, _says(None, "tool_calls"), "finish_reason tool_calls")),
    Case("every answer is cut short, 2153 prompts", partial(_stops, _says("A dog th", "length"), "length")),
    Case("every prompt is refused", partial(_stops, (400, {"error": {"message": "no such field"}}), "no such field")),
    Case(
        "HTTP 200 with an error for good",
        partial(_stops, (200, {"error": {"code": 402, "message": "Insufficient credits"}}), "Insufficient credits"),
    ),
    *(Case(f"HTTP 200 with an error: {what}", partial(_asked_again, error)) for what, error in ERRORS.items()),
    Case("one prompt of 200 is refused with 400", _one_refused),
    Case("one answer is empty", partial(_passing, _says(None)), quick=True),
    Case("one answer is cut short", partial(_passing, _says("A dog th", "length")), quick=True),
    Case("`ard concepts` on a catalogue without detection", _without_detection),
    Case("LC_ALL=C PYTHONUTF8=0", partial(_other_locale, {"LC_ALL": "C"})),
    Case("PYTHONIOENCODING=latin-1", partial(_other_locale, {"LC_ALL": "C.UTF-8", "PYTHONIOENCODING": "latin-1"})),
]
