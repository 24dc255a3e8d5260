"""The steps of a run, each done once with its settings: what `ard demo`, `ard run` and `ard table` do."""

import json
import logging
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from copy import deepcopy
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from lightning.pytorch.loggers import Logger
from omegaconf import OmegaConf
from rich.console import Console

from ard.activations import keep_shards, read_manifest, remove_shards, write_clips_table
from ard.audio import Corpora, read_audio_manifest, write_audio_shards
from ard.audiollm import EMBEDDED, only_hears
from ard.classes import import_class
from ard.console import at_work, say, say_failures, say_notes, tracked
from ard.evaluation import MatchReading, measure_gain, measure_steering_differences
from ard.files import LOCK, InUseError, claim, in_use
from ard.presets import plain, preset_facts, preset_folder, resolved
from ard.probing import STAMPS, Evaluator, draw_control, numbered
from ard.reports import Table, render_table, summary, write_report, write_tables
from ard.results import write_json
from ard.run import MANIFEST, Cell, Run
from ard.sae import PLACEHOLDER, is_whole
from ard.stamps import Stamp, read_stamp, settings_of, write_stamp
from ard.steps import GOALS, STEPS, Goal, Step, TableNumber, Work, listed, trained, work, work_on
from ard.study import Store, score_study
from ard.tracking import WandbLogger, log_cell
from ard.trainer import run_config
from ard.types import Clip, Failure, UserError


class Part(NamedTuple):
    """What a step does on a split or a cell at once: all of it, or one evaluator.

    ``why`` it is to be done: no line where it is done already. ``taken`` says that it was made before there were
    stamps, or by hand, and is taken as it is. ``needs_changed`` says that what it needs has changed, and no setting of
    its own. An evaluator has its part of the YAML (``config``), and may take part in the pass over the clips
    (``streams``).
    """

    name: str
    path: Path
    stamp: Stamp
    why: Sequence[str]
    changed: bool = False
    taken: bool = False
    needs_changed: bool = False
    config: Any = None
    streams: bool = False


class Chain:
    """A run and the steps that fill its folder.

    Args:
        preset: a folder of `configs`, or the path of one of your own.
        facts: what differs from the preset's ``run.yaml``.
        redo: names of steps that are done again whatever their stamps say.
        cells: layers and expansions; only their part of the work is done, beside other processes in the same folder.

    Raises:
        UserError: if the preset, a step or a reading of Table 1 does not exist.
    """

    def __init__(
        self,
        preset: str,
        facts: dict[str, Any],
        redo: Collection[str] = (),
        cells: Collection[tuple[int, int]] | None = None,
    ) -> None:
        self._given = {name: _spelled_alike(name, value) for name, value in facts.items()}
        self.preset, self.configs = preset, preset_folder(preset)
        self.facts = preset_facts(preset, self._given)
        self.redo, self.cells = set(redo), cells
        check_steps(self.redo)
        reading = plain(self.facts)["matching"]
        try:
            MatchReading(**reading)
        except TypeError as error:
            raise UserError(
                f"`matching` {reading} of the run is no reading ({error}): see ard.evaluation.MatchReading"
            ) from error
        self.run = Run(Path(self.facts.out))
        self._configs: dict[str, dict[str, Any]] = {}  # that were resolved with the facts of now
        self._left_out = self._leave_out()

    def _leave_out(self) -> list[str]:
        """Leave out what only a model that answers can do, if the run's is an encoder; return what, with the reason."""
        if not only_hears(self.facts.model):
            return []
        asked: dict[str, tuple[str, Any]] = {}
        if self.facts.get("captioner") == self.facts.model:
            asked["captioner"] = ("captions", None)
        if self.facts.get("tasks"):
            asked["tasks"] = ("steering", [])
        self.change(**{fact: nothing for fact, (_, nothing) in asked.items()})
        reason = f"left out, since {str(self.facts.model)!r} is an encoder, which answers nothing"
        return [f"{what}: {reason}" for what, _ in asked.values()]

    def _lacking(self, planned: Iterable[Work]) -> Iterator[str]:
        """Say which evaluators are left out, and what they lack."""
        for file in dict.fromkeys(one.step.file for one in planned if one.step.file in ("test", "steer")):
            facts = self._cell_facts(self.run.cell(self.facts.layer, self.facts.expansion))
            for callback in self._resolved(str(file), facts)["trainer"]["callbacks"]:
                evaluator = import_class(callback["class_path"])
                if issubclass(evaluator, Evaluator) and (what := evaluator.lacks(callback.get("init_args") or {})):
                    yield f"{evaluator.__name__}: left out, since there is no {what.removeprefix('a ')}"

    def change(self, **facts: Any) -> None:
        """Change facts, before anything is filled."""
        self._given |= facts
        self.facts = preset_facts(self.preset, self._given)
        self._configs.clear()

    def check(self, goals: Iterable[Goal]) -> None:
        """Refuse to do anything where costly work was done with other settings, before anything is written.

        Raises:
            UserError: with the first setting that differs, and what to do.
        """
        if self.run.path.is_file() and self.run.preset != self.preset:
            raise UserError(
                f"{str(self.run.folder)!r} holds a run of preset {self.run.preset!r}, not {self.preset!r}: "
                "choose another --out"
            )
        costly = [one for one in self.work(goals) if one.step.costly and one.step.name not in self.redo]
        changed = [(one, part) for one in costly for part in self.parts(one) if part.changed]
        if changed:
            one, part = changed[0]
            other_sounds = one.step.name == "audio"  # of which all else comes
            affected = costly if other_sounds else [one for one, _ in changed]
            names = sorted({one.step.name for one in affected} | self.redo, key=[s.name for s in STEPS].index)
            if other_sounds:
                raise UserError(
                    f"{str(self.run.folder)!r} was made, or begun, with other sounds ({part.why[0]}): give --redo "
                    f"[{','.join(names)}] to make it anew with those that are there now, where activations that would "
                    "be the same are kept, --redo [audio] if they are the same sounds elsewhere, or another --out"
                )
            raise UserError(
                f"{one} of {str(self.run.folder)!r} was done, or begun, with other settings: {part.why[0]}; give "
                f"--redo [{','.join(names)}] to do it again, or another --out"
            )

    def work(self, goals: Iterable[Goal]) -> list[Work]:
        """Return all the work for some goals, or the part of it for the chosen cells.

        Raises:
            UserError: if a chosen cell is none of theirs.
        """
        works = work(self.facts, goals)
        if self.cells is None:
            return works
        there = trained(works)
        if unknown := sorted(set(self.cells) - set(there)):
            layer, expansion = unknown[0]
            raise UserError(
                f"cell {layer}/{expansion} is not among those of this table: choose from "
                f"{','.join(f'{layer}/{expansion}' for layer, expansion in there)}"
            )
        return work_on(works, self.cells)

    def setting(self, file: str, part: str, name: str) -> Any:
        """Return a setting of the model or the data of one of the preset's files."""
        return self._resolved(file, {})[part]["init_args"][name]

    def fill(self, goals: Iterable[Goal], *, until: str | None = None) -> None:
        """Do all that some goals take and that is not done yet, up to and with a step, if one is named.

        Several processes may do so at once. What all cells share is made by one of them, and so is each cell; the
        others wait for it.
        """
        planned = self.work(goals)
        self.check(goals)
        for line in [*self._left_out, *self._lacking(planned)] if until is None else ():
            say(line)
        sources = self._sources(one.split for one in planned if one.step.name == "audio" and one.split)
        names = [step.name for step in STEPS]
        wanted = names if until is None else names[: names.index(until) + 1]
        steps = {name: list(group) for name, group in groupby(planned, key=lambda one: one.step.name) if name in wanted}
        with claim(self.run.folder, refuse=_refuse_foreign, wait=True):
            # Of paths in the folder run.json says where they lie there, so that the folder may be renamed and moved.
            movable = plain(preset_facts(self.preset, {**self._given, "out": "."}))
            self.run = Run.open(self.run.folder, {"preset": self.preset, **movable, "goals": self._goals(goals)})
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
                        for mine in self._in_turn(of_layer):
                            for together in self._passes(mine):
                                self._evaluate(together)

    def _in_turn(self, works: Iterable[Work]) -> Iterator[list[Work]]:
        """Yield the cells with something to do, held by this process: the free ones, then those of other processes."""
        left = [one for one in works if any(part.why or part.taken for part in self.parts(one))]
        while left:
            with ExitStack() as held:
                mine = [one for one in left if self._holds(one, held)]
                if not mine:
                    held.enter_context(claim(self._cell(left[0]).folder, wait=True))
                    mine = [one for one in left if self._holds(one, held)]
                yield mine
            left = [one for one in left if one not in mine]

    def _holds(self, one: Work, held: ExitStack) -> bool:
        """Claim a cell unless another process has it; return whether it could be claimed."""
        try:
            held.enter_context(claim(self._cell(one).folder))
        except InUseError:
            return False
        return True

    def _goals(self, goals: Iterable[Goal]) -> list[Goal]:
        """Return all goals that the run has had, with these."""
        run = Run(self.run.folder)  # as it is now: another process may have added a goal
        earlier = run.facts.get("goals", ()) if run.path.is_file() else ()
        return [goal for goal in GOALS if goal in {*earlier, *goals}]

    def list_work(self, goals: Iterable[Goal]) -> Iterator[str]:
        """Say of each thing that some goals take whether it is done, and why not."""
        for one in self.work(goals):
            parts = self.parts(one)
            done = f"{one}: done" + (", without a stamp" if any(part.taken for part in parts) else "")
            yield from _todo(one, parts) or [done]

    def list_unfinished(self, goals: Iterable[Goal]) -> Iterator[str]:
        """Say of each thing that some goals take and that is not done why it is not."""
        for one in work(self.facts, goals):
            yield from _todo(one, self.parts(one))

    def parts(self, one: Work) -> list[Part]:
        """Return what there is to do on a split or a cell, and why."""
        if one.step.name == "study":
            return []
        if one.split is not None:
            return [self._on_split(one, one.split)]
        cell = self._cell(one)
        if one.step.name == "fit":
            return [self._part(one.step, "fit", cell.stamp("fit"), self._training(cell), there=cell.has_sae)]
        if one.step.name == "control":
            return [self._part(one.step, "control", cell.stamp("control"), self._drawing(cell), there=cell.has_sae)]
        return self._evaluations(one, cell)

    def _part(self, step: Step, name: str, path: Path, stamp: Stamp, *, there: bool) -> Part:
        kept = read_stamp(path)
        differences = kept.differences(stamp) if kept else []
        needs_changed = (
            bool(differences) and kept is not None and not kept.differences(stamp._replace(needs=kept.needs))
        )
        if differences or step.name in self.redo:
            why = differences or ["asked for by --redo"]
            return Part(name, path, stamp, why, changed=True, needs_changed=needs_changed)
        if not there:
            return Part(name, path, stamp, ["not done yet"])
        return Part(name, path, stamp, (), taken=kept is None)

    def _on_split(self, one: Work, split: str) -> Part:
        """Return the making of audio shards, or their extraction."""
        name = f"{one.step.name}-{split}"
        if one.step.name == "audio":
            folder, needs = self.run.audio(split), {}
            made_of = plain(self.facts)["audio"].get(split, self.facts.data)
            settings = {"clips": json.loads(json.dumps(made_of))}
        else:
            folder, needs = Path(self._extracted(split)), {f"audio-{split}": self._digest_of_audio(split)}
            settings = self._settings("extract", {"split": split, "activations": str(folder)})
        stamp = Stamp(settings, needs)
        return self._part(one.step, name, self.run.stamp(name), stamp, there=(folder / MANIFEST).is_file())

    def _training(self, cell: Cell) -> Stamp:
        settings = self._settings("fit", self._cell_facts(cell))
        return Stamp(settings, self._extraction_digests())

    def _drawing(self, control: Cell) -> Stamp:
        trained = self._training(self.run.cell(control.layer, control.expansion))
        return Stamp({"seed": self.facts.seed}, {"fit": trained.digest})

    def _evaluations(self, one: Work, cell: Cell) -> list[Part]:
        """Return the evaluators of a step on a cell, in their order."""
        step, common = one.step, self._extraction_digests()
        if cell.control:
            common["control"] = self._drawing(cell).digest
        elif cell.expansion is not None:
            common["fit"] = self._training(cell).digest
        if step.name == "steer":
            common |= {f"audio-{split}": self._digest_of_audio(split) for split in self.facts.audio}
        makers: dict[str, str] = {}  # of each of ``FILES``, the digest of who makes it
        parts: list[Part] = []
        for file in dict.fromkeys(("test", str(step.file))):
            for name, evaluator, config in self._evaluators(file, cell):
                needs = common | {needed: makers.get(needed) for needed in evaluator.needs}
                stamp = Stamp(settings_of(config.get("init_args") or {}, self.run.folder), needs)
                makers |= dict.fromkeys(evaluator.makes, stamp.digest)
                if file == step.file and (step.evaluators is None or evaluator.__name__ in step.evaluators):
                    path = cell.stamp(name)
                    there = _is_there(evaluator, cell, stamped=path.is_file())
                    part = self._part(step, name, path, stamp, there=there)
                    parts.append(part._replace(config=config, streams=evaluator.streams()))
        return parts

    def _evaluators(self, file: str, cell: Cell) -> Iterator[tuple[str, type[Evaluator], dict[str, Any]]]:
        """Return the evaluators of a YAML file: the name of each, its class, and its part of the file."""
        names = Counter[str]()
        for callback in self._resolved(file, self._cell_facts(cell))["trainer"]["callbacks"]:
            evaluator = import_class(callback["class_path"])
            if issubclass(evaluator, Evaluator) and not evaluator.lacks(callback.get("init_args") or {}):
                names[evaluator.__name__] += 1
                yield numbered(evaluator.__name__, names[evaluator.__name__]), evaluator, callback

    def _extraction_digests(self) -> dict[str, str | None]:
        """Return the digests of the stamps of the activations."""
        splits = ["probe", *(["eval"] if self.facts.evaluation else [])]
        extract = next(step for step in STEPS if step.name == "extract")
        digests: dict[str, str | None] = {}
        for part in (self._on_split(Work(extract, split=split), split) for split in splits):
            kept = read_stamp(part.path)  # which knows the audio shards, also where these are gone
            digests[part.name] = (part.stamp if part.changed or kept is None else kept).digest
        return digests

    def _digest_of_audio(self, split: str) -> str | None:
        """Return the checksum of audio shards; None where they are not there yet."""
        there = (self.run.audio(split) / MANIFEST).is_file()
        return read_audio_manifest(self.run.audio(split)).xxh3 if there else None

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
        part = self._on_split(Work(step, split=split), split)
        if part.why:
            _, failures = write_audio_shards(tracked(source, f"audio: {split}"), self.run.audio(split))
            write_stamp(part.path, part.stamp)
            say_failures(failures)
            say_notes(read_audio_manifest(self.run.audio(split)).notes)

    def _extract(self, one: Work) -> None:
        (part,) = self.parts(one)
        folder = Path(self._extracted(str(one.split)))
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
            run_config("predict", "extract.yaml", self._resolved("extract", facts))
        self._seal(one, [part])

    def _train(self, of_layer: Sequence[Work]) -> None:
        """Train the SAEs of a layer that are not there yet, side by side: each becomes what it would alone."""
        missing: list[tuple[Cell, Part]] = []
        for one in of_layer:
            (part,) = self.parts(one)
            if part.why:
                missing.append((self._cell(one), part))
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
        facts = self._cell_facts(cells[0]) | {"sae": str(pattern)}
        if len(cells) > 1:
            facts |= {"expansion": expansions, "cell": str(together)}
        whole = newest_whole(Path(facts["cell"]) / cells[0].checkpoints.name)
        resumed = {"ckpt_path": str(whole)} if whole else {}
        run_config("fit", "fit.yaml", self._resolved("fit", facts) | resumed)

    def _control(self, one: Work) -> None:
        """Draw a dictionary that is not trained, to compare the trained one of its layer and expansion with."""
        (part,), cell = self.parts(one), self._cell(one)
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
                alike = json.dumps([self._cell(one).layer, [part.config for part in todo]], default=str)
                passes.setdefault(alike, []).append((one, todo))
        yield from passes.values()

    def _evaluate(self, together: Sequence[tuple[Work, Sequence[Part]]]) -> None:
        """Run the evaluators of a step that have not done their work with these settings, on cells of one layer."""
        (one, todo), works = together[0], [one for one, _ in together]
        changed = [part for _, parts in together for part in parts if part.changed]
        self._announce(listed(works), next(iter(changed), todo[0]))
        config = self._resolved(str(one.step.file), self._cell_facts(self._cell(one)))
        callbacks = config["trainer"]["callbacks"]
        others = [callback for callback in callbacks if not issubclass(import_class(callback["class_path"]), Evaluator)]
        config["trainer"]["callbacks"] = [*(part.config for part in todo), *others]
        config["model"]["init_args"]["cell"] = [str(self._cell(work).folder) for work in works]
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
        config = self._resolved("test", self._cell_facts(self.run.own))["trainer"].get("logger")
        return import_class(config["class_path"])(**config.get("init_args", {})) if isinstance(config, dict) else None

    def _announce(self, what: str, part: Part) -> None:
        """Say what is done now; where it was done before with other settings, what changed."""
        changed = f" ({part.name}: {part.why[0]})" if part.config else f" ({part.why[0]})"
        say(what + (changed if part.changed else ""))

    def _cell(self, one: Work) -> Cell:
        assert one.cell is not None
        return self.run.cell(*one.cell)

    def _extracted(self, split: str) -> str:
        return str(self.facts.activations if split == "probe" else self.facts.evaluation)

    def _cell_facts(self, cell: Cell) -> dict[str, Any]:
        """Return the facts of a cell; at layers other than the run's own, the tables print AR&D alone."""
        facts = {"layer": cell.layer, "expansion": cell.expansion, "cell": str(cell.folder)}
        if cell.layer != self.facts.layer:
            facts["baselines"] = False
        return facts

    def _settings(self, file: str, facts: dict[str, Any]) -> dict[str, Any]:
        return settings_of(self._resolved(file, facts), self.run.folder)

    def _resolved(self, file: str, facts: dict[str, Any]) -> dict[str, Any]:
        """Return one of the preset's files with some facts changed; each is resolved once, which takes a while."""
        path = self.configs / f"{file}.yaml"
        key = json.dumps([str(path), facts])
        if key not in self._configs:
            self._configs[key] = resolved(path, self.facts, facts)
        return deepcopy(self._configs[key])


def reopened(run: Run) -> Chain:
    """Return the chain of a run that was begun, which has the facts in its ``run.json``.

    Raises:
        UserError: if that cannot be read, or its preset no longer exists.
    """
    return Chain(run.preset, {**_given(run), "out": str(run.folder)})


def _given(run: Run) -> dict[str, Any]:
    """Return which of a run's facts are not what its preset says; those that refer to others follow from these."""
    stated = OmegaConf.to_container(preset_facts(run.preset, {}), resolve=False)
    assert isinstance(stated, dict)
    given = {name: value for name, value in run.facts.items() if name not in {*stated, "preset", "goals"}}
    follow = plain(preset_facts(run.preset, {**given, "out": "."}))
    for name in sorted(map(str, stated), key=lambda name: "${" in str(stated[name])):
        if name in run.facts and run.facts[name] != follow[name]:
            given[name] = run.facts[name]
            follow = plain(preset_facts(run.preset, {**given, "out": "."}))
    return given


def _todo(one: Work, parts: Sequence[Part]) -> list[str]:
    """Say why each part of a step on a split or a cell is not done; no line where all of it is."""
    todo = [part for part in parts if part.why]
    return [f"{one}: {f'{part.name}: ' if len(parts) > 1 else ''}{part.why[0]}" for part in todo]


def _is_there(evaluator: type[Evaluator], cell: Cell, *, stamped: bool) -> bool:
    """Return whether an evaluator has left its files; one with a stamp may have found nothing to put into a result."""
    files = [cell.path(file) for file in evaluator.makes]
    results = [cell.result_path(result) for result in evaluator.results]
    if stamped:
        return all(path.is_file() for path in files)
    return bool(files + results) and all(path.is_file() for path in files + results)


def check_steps(names: Collection[str]) -> None:
    """Refuse names of steps that do not exist.

    Raises:
        UserError: with the first of them, and the steps.
    """
    if unknown := set(names) - {step.name for step in STEPS}:
        raise UserError(f"step {min(unknown)!r} does not exist: the steps are {', '.join(s.name for s in STEPS)}")


def claim_run(out: Path) -> AbstractContextManager[None]:
    """Keep a run's folder to this process; refuse one that holds anything but a run, or audio shards to start from."""
    return claim(out, refuse=_refuse_foreign)


def is_begun(run: Run) -> bool:
    """Return whether there is a run, or at least its audio shards, which may be written before ``run.json``."""
    return run.path.is_file() or any((folder / LOCK).is_file() for folder in run.audio_folders)


def _refuse_foreign(out: Path) -> None:
    if set(in_use(out)) - {"wandb"} and not is_begun(Run(out)):  # W&B may write its log before or after a run
        raise UserError(f"folder {str(out)!r} is in use, and not by a run: choose a new or empty one as --out")


def _spelled_alike(name: str, value: Any) -> Any:
    """Return a fact; a folder that it names gets its one absolute path."""
    is_path = name in ("model", "clap", "bertscore", "root") and value not in (None, EMBEDDED) and Path(value).exists()
    return str(Path(value).resolve()) if is_path else value


def newest_whole(folder: Path) -> Path | None:
    """Return the newest checkpoint that is whole, if any, and show which newer ones are not."""
    for path in sorted(folder.glob("*.ckpt"), key=lambda path: path.stat().st_mtime_ns, reverse=True):
        if is_whole(path):
            say(f"goes on from {path}")
            return path
        say(f"{path} is cut short or damaged: passed over")
    return None
