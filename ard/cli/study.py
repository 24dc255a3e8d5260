"""`ard study`, on a run's folder."""

from pathlib import Path

from rich.console import Console

from ard.console import at_work, console
from ard.embedding import EMBEDDED
from ard.files import accept, claim, refuse_foreign
from ard.naming import EndpointChat
from ard.reports import build_tables, render_table, write_tables
from ard.run import Run
from ard.study import (
    ChatRater,
    Store,
    draw_concepts,
    rate_study,
    read_answers,
    score_study,
    write_answers,
)
from ard.tracking import log_results
from ard.types import UserError


def make(run: Path, concepts: int = 50, seed: int | None = None) -> None:
    """Draw the concepts of a rating study, AR&D's and those of Poly. Feats. mixed.

    Args:
        run: the run's folder.
        concepts: how many from each method (the paper's 50).
        seed: seed of the draw and of the raters' orders; the run's own if not given.
    """
    opened = Run.load(run)
    cells = [opened.own, opened.cell(opened.layer, None)]
    chosen = opened.seed if seed is None else seed
    with claim(opened.study.parent):
        store = Store.create(opened.study, draw_concepts(cells, concepts, chosen), chosen)
    for method in (cell.method for cell in cells):
        num_drawn = sum(concept.method == method for concept in store.concepts)
        if num_drawn < concepts:
            _say(f"{method}: {num_drawn} named concepts, and {concepts} were asked for", "yellow")
    _say(f"{len(store.concepts)} concepts in {store.path}; serve them with `ard app --run {run}`")


def score(run: Path, clap: str | None = None, bertscore: str | None = None, device: str = "cpu") -> None:
    """Score the answers to a study and write Table 2: ratings, agreement, CLAP cosine, BERTScore.

    Args:
        run: the run's folder.
        clap: the CLAP model, if not the run's own.
        bertscore: the language model of BERTScore, a hub id or a local folder, if not the run's own; ``none`` leaves
            it out.
        device: device to run the models on.
    """
    opened, store = Run.load(run), _store(run)
    with claim(run), at_work("scoring the answers"):
        score_study(
            store,
            opened.own.result_path("study"),
            clap=clap or opened.facts.get("clap", EMBEDDED),
            bertscore=None if bertscore == "none" else bertscore or opened.facts.get("bertscore"),
            seed=opened.seed,
            device=device,
        )
        write_tables(run)
        log_results(opened)
    for table in build_tables(run, [2]):
        Console().print(render_table(table))


def export(run: Path, out: Path | None = None) -> None:
    """Write the answers to a study as CSV and as Label Studio's JSON.

    Args:
        run: the run's folder.
        out: the folder for the files, the study's own if not given.
    """
    store = _store(run)
    try:
        with claim(folder := out or store.path.parent, refuse=refuse_foreign if out else accept):
            paths = write_answers(store, folder)
    except OSError as error:
        raise UserError(f"the export cannot be written ({error}): choose another --out") from error
    for path in paths:
        _print(str(path))


def import_(file: Path, run: Path) -> None:
    """Add answers from a CSV or Label Studio JSON file to a study: all of them, or none if one row is bad.

    Args:
        file: what `ard study export` or Label Studio wrote.
        run: the run's folder.
    """
    store = _store(run)
    before = {rater.name for rater in store.raters()}
    answers = read_answers(file, store)
    added = store.put(answers)
    new = sorted({answer.rater for answer in answers} - before)
    _say(
        f"{added} of {len(answers)} answers are new" + (f"; raters new to this study: {', '.join(new)}" if new else "")
    )


def rate(run: Path, endpoint: str, model: str) -> None:
    """Have a language model label and rate a study's concepts from captions; a row of its own in Table 2.

    Args:
        run: the run's folder.
        endpoint: an OpenAI-compatible endpoint, such as ``http://localhost:8000/v1``; its key is in OPENAI_API_KEY.
        model: the model's name there.
    """
    store = _store(run)
    chat = EndpointChat(endpoint, model, cache=store.path.parent / "requests.jsonl")
    judgements = rate_study(store, ChatRater(chat))
    unreadable, unable = (sum(one.unanswered == why for one in judgements) for why in ("unreadable", "cannot tell"))
    rated = len(judgements) - unreadable - unable
    _say(f"{model}: {rated} rated, {unable} it could not tell, {unreadable} unreadable answers, which are not ratings")


def _store(run: Path) -> Store:
    return Store(Run.load(run).study)


def _say(text: str, style: str | None = None) -> None:
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def _print(text: str) -> None:
    Console().print(text, markup=False, highlight=False, soft_wrap=True)
