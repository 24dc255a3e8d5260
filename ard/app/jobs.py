"""The queue of the explorer: one thread holds the model, and does one job after the other."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from threading import Condition, Event, Thread
from typing import Any, Generic, TypeVar

from ard.types import UserError

MOST_WAITING = 8
"""Jobs that may wait; whoever comes then is asked to come back."""

Model = TypeVar("Model")
Tell = Callable[[Mapping[str, Any]], None]
"""Sends something to whoever waits for a job. It raises :class:`Stopped` once nobody does."""


class Stopped(Exception):  # noqa: N818  a signal, not an error
    """Ends a job that nobody waits for any more."""


class BusyError(UserError):
    """The queue is full."""


class Job(Generic[Model]):
    """Something that is done with the model, as seen by who asked for it."""

    def __init__(self, work: Callable[[Model, Tell], None], loop: asyncio.AbstractEventLoop) -> None:
        self._work, self._loop = work, loop
        self._stopped = Event()
        self._told: asyncio.Queue[Mapping[str, Any] | None] = asyncio.Queue()

    def tell(self, event: Mapping[str, Any]) -> None:
        """Send an event; it may be called from any thread.

        Raises:
            Stopped: if the job was stopped.
        """
        if self._stopped.is_set():
            raise Stopped
        self.send(event)

    async def events(self) -> AsyncIterator[Mapping[str, Any]]:
        """Yield what the job sends, to its end; of a job that fails the last event is ``error``, a line."""
        while (event := await self._told.get()) is not None:
            yield event

    def stop(self) -> None:
        """Let the job end at its next event, or never begin."""
        self._stopped.set()

    def close(self) -> None:
        """End it, and what it sends."""
        self.stop()
        self.send(None)

    def run(self, model: Model | UserError) -> None:
        """Do it, unless it was stopped; whatever happens is told, and nothing is raised."""
        try:
            if isinstance(model, UserError):
                raise model
            self.tell({"begun": True})
            self._work(model, self.tell)
        except Stopped:
            pass
        except UserError as error:
            self.send({"error": str(error)})
        except Exception as error:  # the next job may be a better one
            logging.getLogger(__name__).exception("a job of the explorer failed")
            kind = type(error).__name__
            full = "memory ran out: try a shorter clip or answer" if kind == "OutOfMemoryError" else kind
            self.send({"error": f"this could not be done ({full}); the server's terminal has the details"})
        self.send(None)

    def send(self, event: Mapping[str, Any] | None) -> None:
        """Send an event, even if the job was stopped; None ends them."""
        with suppress(RuntimeError):  # the server is going down, and its loop is closed
            self._loop.call_soon_threadsafe(self._told.put_nowait, event)


class Jobs(Generic[Model]):
    """The queue, and the thread that empties it. The thread loads the model once, when it is first needed.

    A server that only raters use so loads none. Jobs wait while it is loaded. If that fails with a
    :class:`~ard.types.UserError`, every job fails with its line.

    Args:
        load: returns the model.
        most_waiting: jobs that may wait.

    Attributes:
        state: ``loading`` (or not wanted yet), ``ready``, or why there is no model.
    """

    def __init__(self, load: Callable[[], Model], most_waiting: int = MOST_WAITING) -> None:
        self.state = "loading"
        self._load, self._most = load, most_waiting
        self._waiting: list[Job[Model]] = []
        self._running: Job[Model] | None = None
        self._is_busy = True
        self._is_wanted = False
        self._changed = Condition()
        Thread(target=self._work, name="model", daemon=True).start()

    def wake(self) -> None:
        """Load the model now: a job will come soon."""
        with self._changed:
            self._is_wanted = True
            self._changed.notify_all()

    def submit(self, work: Callable[[Model, Tell], None]) -> Job[Model]:
        """Put a job into the queue, from within the event loop that reads its events.

        Events before its own are ``ahead``, the number of jobs before it, as often as that changes, and ``begun``.

        Raises:
            BusyError: if the queue is full.
        """
        with self._changed:
            if len(self._waiting) >= self._most:
                raise BusyError(f"{self._most} others are waiting already: try again in a while")
            job = Job(work, asyncio.get_running_loop())
            self._waiting.append(job)
            self._tell_places()
            self._is_wanted = True
            self._changed.notify_all()
        return job

    def withdraw(self, job: Job[Model]) -> None:
        """Stop a job, whether it waits, runs or is done."""
        with self._changed:
            job.stop()
            if job in self._waiting:
                self._waiting.remove(job)
                self._tell_places()

    def close(self) -> None:
        """End all jobs, so that a server can go down; it may be called from a signal handler."""
        for job in [*self._waiting, *filter(None, [self._running])]:
            job.close()

    def _tell_places(self) -> None:
        for place, job in enumerate(self._waiting):
            job.send({"ahead": place + self._is_busy, "state": self.state})

    def _work(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._is_wanted)
        model: Model | UserError
        try:
            model = self._load()
            self.state = "ready"
        except UserError as error:
            model, self.state = error, str(error)
        except Exception as error:  # the report and the study need no model
            logging.getLogger(__name__).exception("the model cannot be loaded")
            model = UserError(f"the model cannot be loaded ({type(error).__name__}); the server's terminal says why")
            self.state = str(model)
        while True:
            with self._changed:
                self._running, self._is_busy = None, False
                self._tell_places()
                self._changed.wait_for(lambda: self._waiting)
                job = self._running = self._waiting.pop(0)
                self._is_busy = True
                self._tell_places()
            job.run(model)
