"""The last screen of a run: what was found, what stands above its controls, the best concepts, where the rest is."""

import math
import re
import shlex
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from rich.cells import cell_len
from rich.text import Text

from ard.reports.concepts import find_concepts
from ard.reports.gains import VERDICTS, gain_name, gain_rows, verdict
from ard.reports.headline import headline
from ard.results import CONTROL_METHODS, Result, Row
from ard.run import Cell, Run

WIDTH, HEIGHT = 80, 23  # a terminal of 80 x 24, with a line for the next prompt
NUM_BEST = 5
WIDEST_NAME = 36
OTHERS = "F1 minus that of"
BETTER, ALIKE, WORSE = VERDICTS
MORE_LINES = (BETTER, OTHERS, WORSE, BETTER, ALIKE, OTHERS, WORSE, BETTER, BETTER)
"""What gets a further line, where there is room for it."""


def summary(run: Run) -> Text:
    """Return one screen of 80 columns and at most 23 lines, of which only long paths stick out.

    It says what the headline says, what the run's dictionary has beyond dictionaries that were never trained, which
    concepts are best, and where the report, the tables and all concepts are. It is to be printed with ``soft_wrap``.

    Args:
        run: the run; what it has not measured is left out, or said to be missing.
    """
    found = [Text(line, "bold") for line in textwrap.wrap(" ".join(headline(run)), WIDTH)]
    best, where = _best_concepts(run.own), _where(run)
    num_left = HEIGHT - sum(len(part) + 1 for part in (found, best, where) if part)
    parts = [part for part in (found, _gains(run, num_left), best, where) if part]
    return Text("\n\n").join(Text("\n").join(part) for part in parts)


def _gains(run: Run, num_lines: int) -> list[Text]:
    """Say in so many lines which figures training makes better, which worse, and which it does not."""
    rows, result = gain_rows(run), run.own.result("gain")
    if not rows or result is None:
        return [Text("What training gives was not measured: there are no untrained dictionaries.")]
    num_draws = result.choices["num_draws"]
    mean = f"the mean of {num_draws} untrained dictionaries" if num_draws > 1 else "an untrained dictionary"
    items = {which: [_gain(row) for row in rows if verdict(row) == which] for which in VERDICTS}
    heads = {which: f"  {which} ({len(of)})  " for which, of in items.items()}
    if others := _minus_others(result):
        items[OTHERS], heads[OTHERS] = others, f"  {OTHERS}  "
    indent, room = max(map(len, heads.values())), dict.fromkeys(items, 1)
    further = [which for which in MORE_LINES if which in items]
    for which in further[: max(0, num_lines - 1 - len(items))]:
        room[which] += 1
    lines = [Text(f"What training gives, with {mean} in brackets", "bold")]
    for which, head in heads.items():
        texts = _fitting(items[which], WIDTH - indent, room[which])
        lines += [Text(f"{'' if place else head:{indent}}{text}") for place, text in enumerate(texts)]
    return lines


def _minus_others(gain: Result) -> list[str]:
    """Return by how much F1 is above that of each other control, the least first, and what the interval says."""
    minus = {method: of["f1"] for method, of in gain.details.get("names_minus", {}).items() if "f1" in of}
    minus.pop(CONTROL_METHODS["untrained"], None)
    told = [(of["value"], of["low"], of["high"], method) for method, of in minus.items() if None not in of.values()]
    return [
        f"{method} {value:+.2f} ({BETTER if low > 0 else WORSE if high < 0 else ALIKE})"
        for value, low, high, method in sorted(told)
    ]


def _gain(row: Row) -> str:
    """Return a figure and, in brackets, that of the untrained dictionaries."""
    name = re.sub(r" \(Table \d\)", "", gain_name(row)).replace("the same,", "m of the top fifth,")
    return f"{name} {row.figures['trained'].value:.2f} ({row.figures['untrained'].value:.2f})"


def _fitting(items: Sequence[str], width: int, num_lines: int) -> list[str]:
    """Return lines with as many of the items as fit, none of them broken, and the number of the others."""
    for num_shown in range(len(items), 0, -1):
        more = [f"{len(items) - num_shown} more"] if num_shown < len(items) else []
        whole = "; ".join(item.replace(" ", "\0") for item in (*items[:num_shown], *more))
        lines = textwrap.wrap(whole, width, break_on_hyphens=False)
        if len(lines) <= num_lines:
            return [line.replace("\0", " ") for line in lines]
    return [f"{len(items)} figures" if items else "none"]


def _best_concepts(cell: Cell) -> list[Text]:
    """Return the concepts of highest m, a line each; without m, those that are active in the most clips."""
    named = find_concepts(cell) if cell.path("concepts").is_file() else []
    distinct = [concept for concept in named if concept.get("duplicate_of") is None]
    if not distinct:
        return [Text("No feature has a name.")]
    has_m = _is_number(distinct[0]["m"])
    if not has_m:
        distinct.sort(key=lambda concept: concept["n_active"], reverse=True)
    what = "whose clips are most alike" if has_m else "active in the most clips"
    rows = [(f"Concepts {what}", "m", "clips", "evidence for the name")]
    rows += [
        (concept["name"], f"{concept['m']:.2f}" if has_m else "–", f"{concept['n_active']:,}", _evidence(concept))
        for concept in distinct[:NUM_BEST]
    ]
    width = min(max(cell_len(row[0]) for row in rows), WIDEST_NAME)
    lines = []
    for place, (name, m, clips, evidence) in enumerate(rows):
        line = Text(name.replace("\n", " "), "" if place else "bold")
        line.truncate(width, overflow="ellipsis", pad=True)
        line.append(f"{m:>7}{clips:>8}  {evidence}", "" if place else "not bold dim")
        line.truncate(WIDTH, overflow="ellipsis")
        lines.append(line)
    return lines


def _evidence(concept: Mapping[str, Any]) -> str:
    """Say in a few words what supports a name: clips that the naming never saw, and the concept's own."""
    phrases, support = concept.get("phrases") or [concept["name"]], concept.get("support") or []
    texts = ["fails its tests"] if concept.get("passes") is False else []
    if _is_number(concept["detection"]):
        texts.append(f"AUROC {concept['detection']:.2f} on unseen clips")
    if support:
        texts.append(support[0].removeprefix(phrases[0]).partition(" (")[0].strip())
    elif not _is_number(concept["detection"]) and _is_number(concept.get("clap")):
        texts.append(f"CLAP cosine {concept['clap']:.2f}")
    return ", ".join(texts)


def _where(run: Run) -> list[Text]:
    """Say where the report, the tables and all concepts are."""
    folder = shlex.quote(str(run.folder))
    lines = (
        ("report", f"{run.report} (open it in a browser)"),
        ("tables", f"ard tables --run {folder} (files: {run.table(1).parent})"),
        ("concepts", f"ard concepts --run {folder}"),
    )
    return [Text.assemble((f"{what:10}", "bold"), text) for what, text in lines]


def _is_number(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
