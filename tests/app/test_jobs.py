"""The queue: one job at a time, in order, each told where it is; a job that nobody waits for ends."""

import asyncio
from threading import Event

import pytest

from ard.app import Jobs
from ard.app.jobs import BusyError
from ard.types import UserError


async def told(job):
    return [event async for event in job.events()]


def test_jobs_run_one_after_the_other_and_know_their_place():
    loaded, go = Event(), Event()

    def load():
        loaded.wait(10)
        return "model"

    def slow(model, tell):
        tell({"model": model})
        go.wait(10)

    async def use():
        jobs = Jobs(load)
        first, second = jobs.submit(slow), jobs.submit(lambda model, tell: tell({"done": model}))
        stream = first.events()
        assert await anext(stream) == {"ahead": 1, "state": "loading"}
        loaded.set()
        seen = []
        while "model" not in (seen[-1] if seen else {}):
            seen.append(await anext(stream))
        if seen[0] == {"ahead": 1, "state": "loading"}:  # told once more when the second job came
            del seen[0]
        assert seen == [{"ahead": 0, "state": "ready"}, {"begun": True}, {"model": "model"}]
        go.set()
        assert [event async for event in stream] == []
        events = await told(second)
        ahead = [event["ahead"] for event in events if "ahead" in event]
        assert ahead == sorted(ahead, reverse=True)
        assert (ahead[0], ahead[-1]) == (2, 0)
        assert events[-2:] == [{"begun": True}, {"done": "model"}]

    asyncio.run(use())


def test_a_full_queue_refuses_and_whoever_leaves_makes_room():
    go = Event()

    async def use():
        jobs = Jobs(lambda: None, most_waiting=2)
        running = jobs.submit(lambda _model, tell: (tell({"runs": 1}), go.wait(10), tell({"runs": 2})))
        stream = running.events()
        while await anext(stream) != {"runs": 1}:
            pass
        waiting = [jobs.submit(lambda _model, tell: tell({"done": 1})) for _ in range(2)]
        with pytest.raises(BusyError, match="2 others are waiting already: try again in a while"):
            jobs.submit(lambda _model, _tell: None)
        jobs.withdraw(waiting[0])
        late = jobs.submit(lambda _model, tell: tell({"done": 2}))
        jobs.withdraw(running)
        go.set()
        assert [event async for event in stream] == []  # its second word comes too late
        assert (await told(waiting[1]))[-1] == {"done": 1}
        assert (await told(late))[-1] == {"done": 2}

    asyncio.run(use())


def test_a_job_that_fails_says_so_and_the_next_one_runs(caplog):
    def refuse(_model, _tell):
        raise UserError("give another")

    def break_down(_model, _tell):
        raise ZeroDivisionError

    async def use():
        jobs = Jobs(lambda: None)
        assert (await told(jobs.submit(refuse)))[-1] == {"error": "give another"}
        said = (await told(jobs.submit(break_down)))[-1]["error"]
        assert said == "this could not be done (ZeroDivisionError); the server's terminal has the details"
        assert (await told(jobs.submit(lambda _model, tell: tell({"done": 1}))))[-1] == {"done": 1}

    asyncio.run(use())
    assert "a job of the explorer failed" in caplog.text


def test_the_model_is_loaded_once_and_not_before_it_is_wanted():
    loads, loaded = [], Event()

    def load():
        loads.append(1)
        loaded.set()

    async def use():
        jobs = Jobs(load)
        assert not loaded.wait(0.1)
        jobs.wake()
        assert loaded.wait(10)
        jobs.wake()
        for _ in range(2):
            await told(jobs.submit(lambda _model, tell: tell({"done": 1})))

    asyncio.run(use())
    assert loads == [1]


def test_all_jobs_end_when_the_server_goes_down():
    async def use():
        begun = Event()

        def endless(_model, tell):
            while True:
                begun.set()
                tell({"runs": 1})

        jobs = Jobs(lambda: None)
        running, waiting = jobs.submit(endless), jobs.submit(endless)
        begun.wait(10)
        jobs.close()
        for job in (running, waiting):
            await asyncio.wait_for(told(job), 10)

    asyncio.run(use())


def test_without_a_model_every_job_gets_the_reason(caplog):
    def missing():
        raise UserError("model 'x' cannot be loaded")

    def broken():
        raise ZeroDivisionError

    async def use():
        for load, line in ((missing, "model 'x' cannot be loaded"), (broken, "cannot be loaded (ZeroDivisionError)")):
            jobs = Jobs(load)
            for _ in range(2):
                assert line in (await told(jobs.submit(lambda _model, _tell: None)))[-1]["error"]
            assert line in jobs.state

    asyncio.run(use())
    assert "the model cannot be loaded" in caplog.text
