"""The program and the command line that a page shows give its answers again."""

import json
import shlex
from pathlib import Path

import pytest

from ard.app import Asked, Clips, answer, hear
from ard.app.calls import command_line, python_call, record
from ard.app.clips import Chosen
from ard.cli import main

from .conftest import NASTY, wav

PROMPT = 'What\'s that? "$(touch x)" `x` \\n é'


@pytest.fixture(params=["stored", "dropped"])
def chosen(request, run, tmp_path, monkeypatch):
    """A clip of the run, and one that was dropped, each of a name that a shell may trip over."""
    monkeypatch.chdir(tmp_path)
    if request.param == "stored":
        return Clips(run).get({"split": "steer", "id": NASTY.id})
    name = "-a 'voice' $(touch x).wav"
    stored = Clips(run).get({"split": "steer", "id": NASTY.id}).clip
    Path(name).write_bytes(wav(stored))
    return Chosen(hear(Path(name).read_bytes(), name), None)


def test_the_shown_calls_give_the_shown_answers(subject, chosen, capsys, tmp_path):
    features = list(subject.names)[:2]
    asked = Asked(PROMPT, [{}, {features[0]: 8.0}, dict(zip(features, (2.0, 6.5), strict=True))], max_new_tokens=6)
    answers = answer(subject, chosen.clip, asked)
    kept = json.loads(json.dumps(record(subject, chosen, asked, answers)))
    exec(compile(kept["python"], "the program", "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out.splitlines() == answers[2:]
    assert kept["python"] == python_call(subject, chosen, asked)
    nothing, *commands = (setting["command_line"] for setting in kept["settings"])
    assert nothing.startswith("# nothing is set")
    for command, setting, expected in zip(commands, asked.settings[1:], answers[3:], strict=True):
        assert command == command_line(subject, chosen, asked, setting)
        ard, *words = shlex.split(command)
        assert ard == "ard"
        main(words)
        shown = capsys.readouterr().out.splitlines()
        assert shown[-2:] == [f"without: {answers[0]}", f"with: {expected}"]
    assert [file.name for file in tmp_path.iterdir()] in ([], ["-a 'voice' $(touch x).wav"])
    assert kept["settings"][2]["features"][1] == {
        "feature": features[1],
        "name": subject.names[features[1]],
        "multiple_of_maximum": 6.5,
        "value": 6.5 * float(subject.maxima[features[1]]),
    }
    assert (kept["unsteered"], kept["passed_through"], kept["prompt"]) == (*answers[:2], PROMPT)
