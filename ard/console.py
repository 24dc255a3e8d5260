"""What the terminal shows while a command runs: messages, progress, and what was left out."""

import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence, Sized
from contextlib import AbstractContextManager, contextmanager
from threading import Timer
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

LATER_PIECE = re.compile(r"#(?!0000)\d{4}$")
FIRST_LINE_S = 2.0
RARELY_S = 60.0

console = Console(stderr=True)

Finding = tuple[str, str, str]
"""A :class:`~ard.types.Failure` or a :class:`~ard.types.Note`: a clip, the stage, and the reason."""


def say(step: str) -> None:
    """Announce the step that begins."""
    console.print(f"[bold]·[/bold] {escape(step)}", highlight=False, soft_wrap=True)


def size_text(num_bytes: int) -> str:
    """Return a size in GB (1e9 bytes), or in MB if it is small."""
    if num_bytes < 1e8:
        return f"{num_bytes / 1e6:,.1f} MB"
    return f"{num_bytes / 1e9:,.{0 if num_bytes >= 1e11 else 1}f} GB"


class Progress(AbstractContextManager["Progress"]):
    """Show how far a stage is, how fast, and how much time is left: a bar on a terminal, now and then a line elsewhere.

    The first line comes after two seconds, and each of the others when twice the time has passed, or one minute.

    Args:
        description: what is done.
        total: how many there are to do; None if that is not known.
        unit: what is counted, in the plural.
        done: how many were done before, by a run that was stopped.
        disable: show nothing.
    """

    def __init__(
        self, description: str, total: int | None, unit: str = "clips", *, done: int = 0, disable: bool = False
    ) -> None:
        self.description, self.total, self.unit = description, total, unit
        self.done = self._done_before = done
        self._disable = disable
        self._bars: Bars | None = None

    def __enter__(self) -> "Progress":
        self._started = time.monotonic()
        self._next_s = FIRST_LINE_S
        if console.is_terminal and not self._disable:
            columns = TextColumn("{task.description}"), BarColumn(None), TextColumn("{task.fields[count]}")
            self._bars = Bars(*columns, TimeRemainingColumn(), console=console, transient=True, expand=True)
            self._task = self._bars.add_task(
                escape(self.description), total=self.total, completed=self.done, count=self._count()
            )
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def advance(self, number: int = 1) -> None:
        """Say that so many more are done."""
        self.done += number
        elapsed_s = time.monotonic() - self._started
        if self._bars is not None:
            self._bars.update(self._task, completed=self.done, count=f"{self._count()}{self._rate(elapsed_s)}")
        elif elapsed_s >= self._next_s and not self._disable:
            self._next_s = elapsed_s + min(elapsed_s, RARELY_S)
            line = f"  {self.description}: {self._count()}{self._rate(elapsed_s)}{self._left(elapsed_s)}"
            console.print(line, markup=False, highlight=False, soft_wrap=True)

    def _count(self) -> str:
        return f"{self.done:,} {self.unit}" if self.total is None else f"{self.done:,} of {self.total:,} {self.unit}"

    def _rate(self, elapsed_s: float) -> str:
        """Return how many were done a second since this run began, or a minute where that is little."""
        num_new = self.done - self._done_before
        if not num_new or elapsed_s <= 0:
            return ""
        rate = num_new / elapsed_s
        return f", {rate:,.{0 if rate >= 10 else 1}f}/s" if rate >= 0.1 else f", {60 * rate:.1f}/min"

    def _left(self, elapsed_s: float) -> str:
        """Return in words the time that the rest takes at the pace so far."""
        num_new = self.done - self._done_before
        if self.total is None or not num_new:
            return ""
        minutes, seconds = divmod(round(elapsed_s / num_new * max(0, self.total - self.done)), 60)
        hours, minutes = divmod(minutes, 60)
        return f", about {f'{hours}:{minutes:02}' if hours else minutes}:{seconds:02} left"


@contextmanager
def at_work(description: str) -> Iterator[None]:
    """Show what is being done, where nothing can be counted: while it lasts, or in a line if it takes two seconds."""
    if console.is_terminal:
        with console.status(escape(description)):
            yield
        return
    line = Timer(FIRST_LINE_S, lambda: console.print(f"  {description}", markup=False, highlight=False, soft_wrap=True))
    line.daemon = True
    line.start()
    try:
        yield
    finally:
        line.cancel()


def tracked(source: Iterable[Any], description: str) -> Iterator[Any]:
    """Show progress while a source of clips is read; the pieces of a long file count as one."""
    with Progress(description, (len(source) or None) if isinstance(source, Sized) else None) as progress:
        for item in source:
            yield item
            if not LATER_PIECE.search(item.id):
                progress.advance()


def say_failures(failures: Sequence[Finding]) -> None:
    """Show which clips were left out, and why."""
    _list("left out", failures)


def say_notes(notes: Sequence[Finding]) -> None:
    """Show which clips were used despite a problem."""
    _list("used despite a problem", notes)


def _list(what: str, listed: Sequence[Finding], most: int = 20) -> None:
    """Show how many there are and the first few by name; if there are more, also the counts by reason."""
    if not listed:
        return
    console.print(f"{len(listed)} {what}:", style="yellow", highlight=False)
    for clip_id, _, reason in listed[:most]:
        console.print(f"  {clip_id}: {reason}", markup=False, highlight=False, soft_wrap=True)
    if len(listed) > most:
        console.print("  and more; all of them by reason:", highlight=False)
        for reason, count in Counter(reason for _, _, reason in listed).most_common(most):
            console.print(f"  {count} x {reason}", markup=False, highlight=False, soft_wrap=True)
