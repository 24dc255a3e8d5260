"""What a person at the terminal sees while something runs: messages, progress, what was left out."""

from collections import Counter
from collections.abc import Iterable, Sequence, Sized
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import track

from ard.types import Failure

console = Console(stderr=True)


def say(step: str) -> None:
    """Show which step begins."""
    console.print(f"[bold]·[/bold] {escape(step)}", highlight=False, soft_wrap=True)


def tracked(source: Iterable[Any], description: str) -> Iterable[Any]:
    """Show progress while a source is read."""
    total = len(source) if isinstance(source, Sized) else None
    return track(source, description, total=total, console=console, transient=True)


def say_failures(failures: Sequence[Failure], most: int = 20) -> None:
    """Show what was left out, and why: how many for each reason, and the first of them by name."""
    if not failures:
        return
    console.print(f"{len(failures)} left out:", style="yellow", highlight=False)
    for failure in failures[:most]:
        console.print(f"  {failure.id}: {failure.reason}", markup=False, highlight=False, soft_wrap=True)
    if len(failures) > most:
        console.print("  and more; in all:", highlight=False)
        for reason, count in Counter(failure.reason for failure in failures).most_common(most):
            console.print(f"  {count} x {reason}", markup=False, highlight=False, soft_wrap=True)
