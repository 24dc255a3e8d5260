"""Every case has a process and an empty folder of its own; one that has not ended in time is killed, and has hung."""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from experiments.torture import SECTIONS, cases_of
from experiments.torture.case import Case

AT_ONCE = 2
LIMIT_S = 150.0
COLORS = {"holds": "green", "falls short": "red", "hung": "red", "died": "red"}


class Outcome(NamedTuple):
    """What came of a case."""

    input: str
    happened: str
    verdict: str
    seconds: float


def run(sections: Sequence[str]) -> int:
    """Run the cases of some sections, two at once, print the table, and return how many fell short."""
    modules = [SECTIONS[section] for section in sections]
    cases = [(module, number) for module in modules for number in range(len(cases_of(module)))]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        waiting = [pool.submit(attempt, module, number) for module, number in cases]
        try:
            progress = track(waiting, "torture", console=Console(stderr=True), transient=True)
            outcomes = [case.result() for case in progress]
        except KeyboardInterrupt:
            pool.shutdown(cancel_futures=True)
            raise
    table = Table("input", "what happened", "verdict", "seconds", show_lines=True)
    for outcome in outcomes:
        color = COLORS[outcome.verdict]
        verdict = f"[{color}]{outcome.verdict}[/{color}]"
        table.add_row(escape(outcome.input), escape(outcome.happened), verdict, f"{outcome.seconds:.1f}")
    fallen = sum(outcome.verdict != "holds" for outcome in outcomes)
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(table)
    console.print(f"{len(outcomes)} cases, {fallen} fall short")
    return fallen


def attempt(module: str, number: int, limit_s: float = LIMIT_S) -> Outcome:
    """Run one case in a process of its own, which is killed with all that it started when it ends, or is late."""
    case, started = cases_of(module)[number], time.monotonic()
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["ard.cli"])
    with TemporaryDirectory() as scratch:
        here, there = processes.Pipe(duplex=False)
        process: Any = processes.Process(target=run_alone, args=(module, number, Path(scratch), there))
        process.start()
        there.close()  # so that its death is seen here
        try:
            if here.poll(limit_s):
                happened, verdict = here.recv()
            else:
                happened, verdict = f"nothing for {limit_s:.0f} s", "hung"
        except EOFError:
            process.join()
            happened, verdict = f"the process ended with exit code {process.exitcode}", "died"
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.join()
    return Outcome(f"{module.rpartition('.')[2]}: {case.input}", happened, verdict, time.monotonic() - started)


def run_alone(module: str, number: int, scratch: Path, report: Connection) -> None:
    """Run one case as the leader of a session, in a folder that holds nothing but what it prints; report on it."""
    os.setsid()
    multiprocessing.set_start_method("fork", force=True)  # as it is by default on Linux; here forkserver is inherited
    printed = os.open(scratch / "printed", os.O_WRONLY | os.O_CREAT)
    os.dup2(printed, 1)
    os.dup2(printed, 2)
    folder = scratch / "case"
    folder.mkdir()
    report.send(outcome_of(cases_of(module)[number], folder))


def outcome_of(case: Case, folder: Path) -> tuple[str, str]:
    """Return what happened to a case and the verdict."""
    try:
        return case.run(folder), "holds"
    except BaseException as error:  # whatever a case raises, the others go on
        said = " ".join(str(error).split())
        return f"{type(error).__name__}: {said}"[:500], "falls short"
