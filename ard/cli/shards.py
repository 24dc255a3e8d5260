"""`ard shards`: write corpora as audio shards, and check them."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser
from rich.console import Console

from ard.audio import SOURCES, check_audio_shards, corpus_class, read_audio_manifest, write_audio_shards
from ard.console import console, say_failures, say_notes, tracked
from ard.files import refuse_inside
from ard.types import Clip, Failure, UserError

MOST_LINES = 20  # of a list that may have thousands
Corpus = Callable[..., Iterable[Clip | Failure]]


def main(words: list[str]) -> None:
    """Write a corpus as WebDataset audio shards, or check a set of them.

    SOURCE is one of those below, or a corpus of your own as package.module.Class.
    """
    source, *options = words[1:] or [""]
    if "." in source and not source.startswith("-"):
        own = corpus_class(source)
        _write(own, _options(own, prog=f"ard shards {source}").parse_args(options).as_dict())
        return
    parser = ArgumentParser(prog="ard shards", description=main.__doc__)
    parser.add_argument(
        "--check", type=Path | None, help="check these shards instead: counts, clips that cannot be read, duplicates"
    )
    sources = parser.add_subcommands(required=False, dest="source", metavar="SOURCE")
    for name, corpus in SOURCES.items():
        sources.add_subcommand(name, _options(corpus), help=_summary(corpus))
    chosen = parser.parse_args(words[1:])
    if chosen.check is not None:
        _check(chosen.check)
    elif chosen.source is None:
        raise UserError(
            f"a source is missing: give one of {', '.join(SOURCES)}, a class of your own as package.module.Class, or "
            "--check DIR"
        )
    else:
        _write(SOURCES[chosen.source], chosen[chosen.source].as_dict())


def _summary(corpus: Corpus) -> str:
    return str(corpus.__doc__).partition("\n")[0]


def _options(corpus: Corpus, **about: Any) -> ArgumentParser:
    """Return a parser of the options that a corpus has: those of its class, and where its shards go."""
    parser = ArgumentParser(description=_summary(corpus), **about)
    parser.add_class_arguments(corpus, as_positional=False)
    parser.add_argument("--out", type=Path, required=True, help="folder of the shards")
    return parser


def _write(corpus: Corpus, asked: dict[str, Any]) -> None:
    out = asked.pop("out")
    if "root" in asked:
        refuse_inside(asked["root"], out)
    written, failures = write_audio_shards(tracked(corpus(**asked), "audio"), out)
    say_failures(failures)
    say_notes(read_audio_manifest(out).notes)
    console.print(f"{written} clips in {out}")


def _check(folder: Path) -> None:
    checked = check_audio_shards(folder)
    for dataset, count in sorted(checked.num_clips.items()):
        Console().print(f"{dataset}: {count} clips", highlight=False)
    say_notes(checked.manifest.notes)
    problems = checked.problems
    for problem in problems[:MOST_LINES]:
        console.print(f"  {problem}", markup=False, highlight=False, soft_wrap=True)
    if problems:
        shown = f", the first {MOST_LINES} of them above" if len(problems) > MOST_LINES else ""
        raise UserError(f"faults in {str(folder)!r}: {len(problems)}{shown}; fix the source and write again")
