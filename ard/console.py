"""What the terminal shows while a command runs: messages, progress, and what was left out."""

from collections import Counter
from collections.abc import Iterable, Sequence, Sized
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import track

from ard.types import Failure, Note

console = Console(stderr=True)


def say(step: str) -> None:
    """Announce the step that begins."""
    console.print(f"[bold]·[/bold] {escape(step)}", highlight=False, soft_wrap=True)


def tracked(source: Iterable[Any], description: str) -> Iterable[Any]:
    """Show progress while a source is read."""
    total = len(source) if isinstance(source, Sized) else None
    return track(source, description, total=total, console=console, transient=True)


def say_failures(failures: Sequence[Failure]) -> None:
    """Show which clips were left out, and why."""
    _list("left out", failures)


def say_notes(notes: Sequence[Note]) -> None:
    """Show which clips were used despite a problem."""
    _list("used despite a problem", notes)


def _list(what: str, listed: Sequence[Failure | Note], most: int = 20) -> None:
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
