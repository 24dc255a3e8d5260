"""The work on a run: do what its agenda says is not done, beside other processes, and write tables and report."""

import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from itertools import groupby, islice
from pathlib import Path

from lightning.pytorch.loggers import Logger
from rich.console import Console

from ard.activations import keep_shards, read_manifest, remove_shards, write_clips_table
from ard.audio import Corpora, read_audio_manifest, write_audio_shards
from ard.chain.agenda import Agenda, Part, is_begun
from ard.classes import import_class
from ard.console import at_work, say, say_failures, say_notes, tracked
from ard.evaluation import measure_gain, measure_steering_differences
from ard.files import InUseError, claim, in_use
from ard.presets import plain
from ard.probing import STAMPS, Evaluator, draw_control
from ard.reports import Table, render_table, summary, write_report, write_tables
from ard.results import write_json
from ard.run import MANIFEST, Cell, Run
from ard.sae import PLACEHOLDER, is_whole
from ard.stamps import write_stamp
from ard.steps import GOALS, STEPS, Goal, TableNumber, Work, listed
from ard.study import Store, score_study
from ard.tracking import WandbLogger, log_cell
from ard.trainer import run_config
from ard.types import Clip, Failure, UserError


class Chain(Agenda):
    """The agenda of a run, and the work on it: fill the run's folder, each step once with its settings.

    Several processes may fill one folder, each with a chain of its own: a step on a cell is done by whoever claims it.
    """

    def fill(self, goals: Iterable[Goal], *, until: str | None = None) -> None:
        """Do all that some goals take and that is not done yet, up to and with a step, if one is named.

        Several processes may do so at once. What all cells share is made by one of them, and so is each cell; the
        others wait for it.
        """
        planned = self.work(goals)
        self.check(goals)
        for line in self.list_left_out(planned) if until is None else ():
            say(line)
        sources = self._sources(one.split for one in planned if one.step.name == "audio" and one.split)
        names = [step.name for step in STEPS]
        wanted = names if until is None else names[: names.index(until) + 1]
        steps = {name: list(group) for name, group in groupby(planned, key=lambda one: one.step.name) if name in wanted}
        with claim(self.run.folder, refuse=_refuse_foreign, wait=True):
            about = {"preset": self.preset, **self.movable_facts(), "goals": self._goals(goals)}
            self.run = Run.open(self.run.folder, about)
            for one in steps.pop("audio", ()):
                if one.split in sources:
                    self.write_audio(one.split, sources[one.split])
                self._seal(one, self.parts(one))
            if extracted := steps.pop("extract", ()):
                for one in extracted:
                    self._extract(one)
                write_clips_table(Path(self.facts.activations), self.run.clips, "probe")
                self.report_failures()
        for name, works in steps.items():
            for _, of_layer in groupby(works, key=lambda one: one.cell and one.cell[0]):
                match name:
                    case "control":
                        for mine in self._in_turn(of_layer):
                            for one in mine:
                                self._control(one)
                    case "fit":
                        for mine in self._in_turn(of_layer):
                            self._train(mine)
                    case "study":
                        with claim(self.run.own.folder, wait=True):
                            self.score_study()
                    case _:
                        for mine in self._in_turn(of_layer, most=1 if name == "steer" else None):
                            for together in self._passes(mine):
                                self._evaluate(together)

    def _in_turn(self, works: Iterable[Work], most: int | None = None) -> Iterator[list[Work]]:
        """Yield the cells with something to do, held by this process: the free ones, then those of other processes.

        Args:
            works: the cells.
            most: how many are held at once, where they do not share a pass; the others are left to other processes.
        """
        left = [one for one in works if any(part.why or part.taken for part in self.parts(one))]
        while left:
            with ExitStack() as held:
                mine = list(islice((one for one in left if self._holds(one, held)), most))
                if not mine:
                    held.enter_context(claim(self.cell(left[0]).folder, wait=True))
                    mine = [one for one in left if self._holds(one, held)]
                yield mine
            left = [one for one in left if one not in mine]

    def _holds(self, one: Work, held: ExitStack) -> bool:
        """Claim a cell unless another process has it; return whether it could be claimed."""
        try:
            held.enter_context(claim(self.cell(one).folder))
        except InUseError:
            return False
        return True

    def _goals(self, goals: Iterable[Goal]) -> list[Goal]:
        """Return all goals that the run has had, with these."""
        run = Run(self.run.folder)  # as it is now: another process may have added a goal
        earlier = run.facts.get("goals", ()) if run.path.is_file() else ()
        return [goal for goal in GOALS if goal in {*earlier, *goals}]

    def _sources(self, splits: Iterable[str]) -> dict[str, Corpora]:
        """Open the corpora of splits whose audio shards are to be made.

        Raises:
            UserError: if a corpus is missing, before anything is written.
        """
        sources = {}
        audio = plain(self.facts)["audio"]
        for split in splits:
            folder = self.run.audio(split)
            if split in audio and ("audio" in self.redo or not (folder / MANIFEST).is_file()):
                try:
                    sources[split] = Corpora(audio[split])
                except UserError as error:
                    raise UserError(
                        f"split {split!r}, which the preset has under `audio`, cannot be made: {error}"
                    ) from error
        return sources

    def write_audio(self, split: str, source: Iterable[Clip | Failure]) -> None:
        """Write the audio shards of a split."""
        step = next(step for step in STEPS if step.name == "audio")
        (part,) = self.parts(Work(step, split=split))
        if part.why:
            _, failures = write_audio_shards(tracked(source, f"audio: {split}"), self.run.audio(split))
            write_stamp(part.path, part.stamp)
            say_failures(failures)
            say_notes(read_audio_manifest(self.run.audio(split)).notes)

    def _extract(self, one: Work) -> None:
        (part,) = self.parts(one)
        folder = Path(self.extracted(str(one.split)))
        if part.why:
            kept = 0
            if part.needs_changed:
                kept = keep_shards(folder, read_audio_manifest(self.run.audio(str(one.split))).shards_xxh3)
            elif part.changed:
                remove_shards(folder)
            write_stamp(part.path, part.stamp)  # so that it does not go on with other settings
            what = f"activations: {one.split}, layers {list(self.facts.layers)} in one pass"
            self._announce(what + (f", but for {kept} shards whose clips are as they were" if kept else ""), part)
            facts = {"split": one.split, "activations": str(folder)}
            run_config("predict", "extract.yaml", self.config("extract", facts))
        self._seal(one, [part])

    def _train(self, of_layer: Sequence[Work]) -> None:
        """Train the SAEs of a layer that are not there yet, side by side: each becomes what it would alone."""
        missing: list[tuple[Cell, Part]] = []
        for one in of_layer:
            (part,) = self.parts(one)
            if part.why:
                missing.append((self.cell(one), part))
            else:
                self._seal(one, [part])
        if not missing:
            return
        cells, expansions = [cell for cell, _ in missing], [cell.expansion for cell, _ in missing]
        together = cells[0].folder.with_name("e" + "-".join(map(str, expansions)))
        for cell, part in missing:
            if part.changed:
                cell.clear()
                replace(cell, label=together.name).clear()
        for _, part in missing:
            write_stamp(part.path, part.stamp)  # so that it does not go on with other settings
        self._announce(f"SAE: layer {cells[0].layer}, expansion {', '.join(map(str, expansions))}", missing[0][1])
        pattern = cells[0].folder.with_name(f"e{PLACEHOLDER}") / cells[0].sae.name
        facts = self.cell_facts(cells[0]) | {"sae": str(pattern)}
        if len(cells) > 1:
            facts |= {"expansion": expansions, "cell": str(together)}
        whole = newest_whole(Path(facts["cell"]) / cells[0].checkpoints.name)
        resumed = {"ckpt_path": str(whole)} if whole else {}
        run_config("fit", "fit.yaml", self.config("fit", facts) | resumed)

    def _control(self, one: Work) -> None:
        """Draw a dictionary that is not trained, to compare the trained one of its layer and expansion with."""
        (part,), cell = self.parts(one), self.cell(one)
        if part.why:
            self._announce(str(one), part)
            with at_work(f"drawing {cell.label} of layer {cell.layer}"):
                draw_control(cell, self.facts.seed)
            write_stamp(part.path, part.stamp)
        self._seal(one, [part])

    def _passes(self, works: Iterable[Work]) -> Iterator[list[tuple[Work, list[Part]]]]:
        """Gather the cells that the same evaluators have yet to work on: they share a pass over their layer's clips."""
        passes: dict[str, list[tuple[Work, list[Part]]]] = {}
        for one in works:
            parts = self.parts(one)
            self._seal(one, parts)
            if todo := [part for part in parts if part.why]:
                alike = json.dumps([self.cell(one).layer, [part.config for part in todo]], default=str)
                passes.setdefault(alike, []).append((one, todo))
        yield from passes.values()

    def _evaluate(self, together: Sequence[tuple[Work, Sequence[Part]]]) -> None:
        """Run the evaluators of a step that have not done their work with these settings, on cells of one layer."""
        (one, todo), works = together[0], [one for one, _ in together]
        changed = [part for _, parts in together for part in parts if part.changed]
        self._announce(listed(works), next(iter(changed), todo[0]))
        config = self.config(str(one.step.file), self.cell_facts(self.cell(one)))
        callbacks = config["trainer"]["callbacks"]
        others = [callback for callback in callbacks if not issubclass(import_class(callback["class_path"]), Evaluator)]
        config["trainer"]["callbacks"] = [*(part.config for part in todo), *others]
        config["model"]["init_args"]["cell"] = [str(self.cell(work).folder) for work in works]
        if not one.step.evaluates:
            config["data"]["init_args"]["evaluation"] = None
        if not any(part.streams for part in todo):
            config["trainer"]["limit_test_batches"] = 1  # of the activations only the layer is of interest
        token = STAMPS.set([[(part.path, part.stamp) for part in parts] for _, parts in together])
        try:
            run_config("test", f"{one.step.file}.yaml", config)
        finally:
            STAMPS.reset(token)

    def _seal(self, one: Work, parts: Sequence[Part]) -> None:
        """Leave the stamps of what is there; what has none was made before there were stamps, or by hand."""
        taken = [part for part in parts if part.taken]
        if taken:
            logging.getLogger(__name__).warning("%s: made without a stamp, and taken as it is", one)
        for part in taken:
            write_stamp(part.path, part.stamp)

    def score_study(self) -> None:
        """Score the answers of people and language models to the run's study, if there are any."""
        store = Store(self.run.study) if self.run.study.is_file() else None
        if store and any(answer.label for answer in store.answers()):
            say(f"study: {store.path}")
            facts = {key: self.facts[key] for key in ("clap", "bertscore", "seed")}
            score_study(store, self.run.own.result_path("study"), **facts)

    def report_failures(self) -> None:
        """Gather what was left out of the run, by whatever stage, and what was used though something was amiss."""
        written = [read_audio_manifest(folder) for folder in self.run.audio_splits]
        failures = [failure for manifest in written for failure in manifest.failures]
        notes = [note._asdict() for manifest in written for note in manifest.notes]
        for extracted in (self.facts.activations, self.facts.evaluation):
            if extracted and (Path(extracted) / MANIFEST).is_file():
                failures += read_manifest(Path(extracted)).failures
        write_json(self.run.failures, {"failures": [f._asdict() for f in failures], "notes": notes})

    def finish(self, number: TableNumber | None = None) -> None:
        """Compare with what was never trained; write tables and report, and send the tables to W&B.

        What is shown in the end is one screen, or one of the tables if its number is given.
        """
        out = self.run.folder
        with at_work("comparing with what was never trained"):
            measure_gain(self.run)
            measure_steering_differences(self.run)
        tables = write_tables(out)
        with at_work("writing the report"):
            report = write_report(out)
        self._log(tables)
        if number is None:
            Console().print(summary(self.run), soft_wrap=True)
            return
        Console().print(*(render_table(table) for table in tables if table.number == number))
        Console().print(f"report: {report}", markup=False, highlight=False, soft_wrap=True)

    def _log(self, tables: Sequence[Table]) -> None:
        """Log the tables with the cell that they are of, and to W&B what a crash kept from being logged."""
        logger, own = self._logger(), self.run.own
        if logger is None:
            return
        others = self.run.evaluated if isinstance(logger, WandbLogger) else []
        with at_work("logging"):
            for cell in others:
                if cell.folder != own.folder:
                    log_cell(logger, cell)
            log_cell(logger, own, tables=tables)

    def _logger(self) -> Logger | None:
        """Return the logger of the evaluations of Tables 1 to 3; None if there is none."""
        config = self.config("test", self.cell_facts(self.run.own))["trainer"].get("logger")
        return import_class(config["class_path"])(**config.get("init_args", {})) if isinstance(config, dict) else None

    def _announce(self, what: str, part: Part) -> None:
        """Say what is done now; where it was done before with other settings, what changed."""
        changed = f" ({part.name}: {part.why[0]})" if part.config else f" ({part.why[0]})"
        say(what + (changed if part.changed else ""))


def claim_run(out: Path) -> AbstractContextManager[None]:
    """Keep a run's folder to this process; refuse one that holds anything but a run, or audio shards to start from."""
    return claim(out, refuse=_refuse_foreign)


def _refuse_foreign(out: Path) -> None:
    if set(in_use(out)) - {"wandb"} and not is_begun(Run(out)):  # W&B may write its log before or after a run
        raise UserError(f"folder {str(out)!r} is in use, and not by a run: choose a new or empty one as --out")


def newest_whole(folder: Path) -> Path | None:
    """Return the newest checkpoint that is whole, if any, and show which newer ones are not."""
    for path in sorted(folder.glob("*.ckpt"), key=lambda path: path.stat().st_mtime_ns, reverse=True):
        if is_whole(path):
            say(f"goes on from {path}")
            return path
        say(f"{path} is cut short or damaged: passed over")
    return None
