"""Several processes ask with one file of answers, and what they share is asked for once."""

import json
import multiprocessing
import time

from ard.naming.answers import Answers

SHARED = [f"shared {number}" for number in range(10)]


def ask(path, own):
    answers = Answers(path)
    with answers.alone():
        for question in SHARED:
            if question not in answers.known:
                time.sleep(0.01)
                answers.keep(question, own)
    for number in range(50):
        answers.keep(f"{own} {number}", own)


def test_what_several_processes_share_is_asked_for_once_and_no_line_is_lost(tmp_path):
    path = tmp_path / "answers.jsonl"
    early = Answers(path)
    early.read()
    early.keep("before", "early")
    processes = [multiprocessing.get_context("fork").Process(target=ask, args=(path, own)) for own in ("a", "b", "c")]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    keys = [json.loads(line)["key"] for line in path.read_text(encoding="utf-8").splitlines()]
    assert sorted(keys) == sorted(["before", *SHARED, *(f"{own} {n}" for own in "abc" for n in range(50))])
    early.read()
    assert early.known.keys() == set(keys)
    assert len({early.known[question] for question in SHARED}) == 1


def test_a_line_that_is_being_written_is_read_when_it_is_whole(tmp_path):
    path = tmp_path / "answers.jsonl"
    writer, reader = Answers(path), Answers(path)
    writer.keep("a", "1")
    line = path.read_bytes()
    path.write_bytes(line + line[:9])
    reader.read()
    assert reader.known == {"a": "1"}
    path.write_bytes(line + line.replace(b'"a"', b'"b"'))
    reader.read()
    assert reader.known == {"a": "1", "b": "1"}
