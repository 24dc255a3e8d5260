"""Writing the report of a run that nobody trained, and searching it in a headless Chromium, for 500 and 5,000 concepts.

The clips last ten seconds, as those of AudioSet do. With 500 concepts none of the representative clips is shared; with
5,000 each clip is representative of ten concepts.
"""

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from ard.reports import write_report
from experiments.bench.made_run import P, remake_concepts, write_run
from experiments.bench.report import Line

TITLE = "The report: 500 and 5,000 concepts, four clips of ten seconds each"
NUM_CLIPS, DURATION_S = 2000, 10.0
QUERIES = ("rain", "loud", "a man speaking", "sudden wind", "1", "zzz", "")
ORDERS = ("name", "n_active", "purity", "m")
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")

TIMED = """async ([id, kind, value]) => {
  const control = document.getElementById(id), started = performance.now();
  control.value = value;
  control.dispatchEvent(new Event(kind));
  const worked = performance.now() - started;
  await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
  return [worked, performance.now() - started];
}"""
"""Change a control; return the milliseconds until the page has changed, and until it is painted."""


def main(
    concepts: tuple[int, ...] = (500, 5000), num_clips: int = NUM_CLIPS, duration_s: float = DURATION_S
) -> list[Line]:
    """Write a report for each number of concepts, and use it."""
    lines: list[Line] = []
    with tempfile.TemporaryDirectory() as folder:
        run = write_run(Path(folder), concepts[0], num_clips, duration_s)
        for number in concepts:
            remake_concepts(run, number)
            started, used = time.perf_counter(), time.process_time()
            page = write_report(run.folder)
            seconds, cores = time.perf_counter() - started, time.process_time() - used
            files = [path for path in page.parent.rglob("*") if path.is_file()]
            name, shown = f"{number:,} concepts", f"{number * P:,} places of {num_clips:,} clips"
            lines += [
                Line(f"{name}: to write", seconds, "s", f"{cores:.0f} s of one core; {shown}"),
                Line(f"{name}: size", sum(path.stat().st_size for path in files) / 1e6, "MB", f"{len(files):,} files"),
                *(line._replace(what=f"{name}: {line.what}") for line in _used(page)),
            ]
    return lines


def _used(page: Path) -> Iterator[Line]:
    """Open a report from disk, search and sort, if there is a Chromium."""
    if CHROMIUM is None:
        return
    from playwright.sync_api import sync_playwright  # only for this

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        visited = browser.new_page(viewport={"width": 1280, "height": 900})
        visited.goto(page.as_uri())
        loaded = visited.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd")
        yield Line("to open", loaded, "ms", "until the page has loaded")
        for what, steps in (
            ("to search", [("query", "input", query) for query in QUERIES]),
            ("to sort and colour", [("order", "change", order) for order in ORDERS]),
        ):
            times = [visited.evaluate(TIMED, list(step)) for _ in range(3) for step in steps]
            worked, painted = ([time[side] for time in times] for side in (0, 1))
            most = f"until painted; {max(painted):.0f} ms at most, {statistics.median(worked):.0f} ms of them to work"
            yield Line(what, statistics.median(painted), "ms", most)
        browser.close()
