"""`ard shards`: write corpora as audio shards, and check them."""

from pathlib import Path

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console

from ard.audio import SOURCES, check_audio_shards, read_audio_manifest, write_audio_shards
from ard.console import console, say_failures, say_notes, tracked
from ard.files import refuse_inside
from ard.types import UserError

MOST_LINES = 20  # of a list that may have thousands


def main(words: list[str]) -> None:
    """Write a corpus as WebDataset audio shards, or check a set of them."""
    parser = ArgumentParser(prog="ard shards", description=main.__doc__)
    parser.add_argument(
        "--check", type=Path | None, help="check these shards instead: counts, clips that cannot be read, duplicates"
    )
    sources = parser.add_subcommands(required=False, dest="source", metavar="SOURCE")
    for name, corpus in SOURCES.items():  # every corpus has the options of its class
        summary = str(corpus.__doc__).partition("\n")[0]
        subparser = ArgumentParser(description=summary)
        subparser.add_class_arguments(corpus, as_positional=False)
        subparser.add_argument("--out", type=Path, required=True, help="folder of the shards")
        sources.add_subcommand(name, subparser, help=summary)
    shards(parser.parse_args(words[1:]))


def shards(chosen: Namespace) -> None:
    """Write a corpus as WebDataset audio shards, or check a set of them."""
    if chosen.check is not None:
        checked = check_audio_shards(chosen.check)
        for dataset, count in sorted(checked.num_clips.items()):
            Console().print(f"{dataset}: {count} clips", highlight=False)
        say_notes(checked.manifest.notes)
        problems = checked.problems
        for problem in problems[:MOST_LINES]:
            console.print(f"  {problem}", markup=False, highlight=False, soft_wrap=True)
        if problems:
            shown = f", the first {MOST_LINES} of them above" if len(problems) > MOST_LINES else ""
            raise UserError(f"faults in {str(chosen.check)!r}: {len(problems)}{shown}; fix the source and write again")
        return
    if chosen.source is None:
        raise UserError(f"a source is missing: give one of {', '.join(SOURCES)}, or --check DIR")
    options = chosen[chosen.source].as_dict()
    out = options.pop("out")
    if "root" in options:
        refuse_inside(options["root"], out)
    written, failures = write_audio_shards(tracked(SOURCES[chosen.source](**options), "audio"), out)
    say_failures(failures)
    say_notes(read_audio_manifest(out).notes)
    console.print(f"{written} clips in {out}")
