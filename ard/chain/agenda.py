"""The agenda of a run: what its tables take, what of it is done with the settings of now, and why the rest is not."""

import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf

from ard.audio import read_audio_manifest
from ard.audiollm import EMBEDDED, only_hears
from ard.classes import import_class
from ard.evaluation import MatchReading
from ard.files import LOCK
from ard.presets import plain, preset_facts, preset_folder, resolved
from ard.probing import Evaluator, numbered
from ard.run import MANIFEST, Cell, Run
from ard.stamps import Stamp, read_stamp, settings_of
from ard.steps import STEPS, Goal, Step, Work, has_made, trained, work, work_on
from ard.types import UserError


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


class Agenda:
    """What is to do in a run's folder, as its stamps tell; nothing is done or written here.

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

    def list_left_out(self, planned: Iterable[Work]) -> Iterator[str]:
        """Say what some work leaves out, and why: what the run's model cannot do, evaluators that lack something."""
        yield from self._left_out
        for file in dict.fromkeys(one.step.file for one in planned if one.step.file in ("test", "steer")):
            facts = self.cell_facts(self.run.cell(self.facts.layer, self.facts.expansion))
            for callback in self.config(str(file), facts)["trainer"]["callbacks"]:
                evaluator = import_class(callback["class_path"])
                if issubclass(evaluator, Evaluator) and (what := evaluator.lacks(callback.get("init_args") or {})):
                    yield f"{evaluator.__name__}: left out, since there is no {what.removeprefix('a ')}"

    def parts(self, one: Work) -> list[Part]:
        """Return what there is to do on a split or a cell, and why."""
        if one.step.name == "study":
            return []
        if one.split is not None:
            return [self._on_split(one, one.split)]
        cell = self.cell(one)
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
            if split == "made":  # of other clips
                settings = settings_of(settings, self.run.folder)
                needs = {"audio-eval": self._digest_of_audio("eval")}
        else:
            folder, needs = Path(self.extracted(split)), {f"audio-{split}": self._digest_of_audio(split)}
            settings = self._settings("extract", {"split": split, "activations": str(folder)})
        stamp = Stamp(settings, needs)
        return self._part(one.step, name, self.run.stamp(name), stamp, there=(folder / MANIFEST).is_file())

    def _training(self, cell: Cell) -> Stamp:
        settings = self._settings("fit", self.cell_facts(cell))
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
            common |= {f"audio-{split}": self._digest_of_audio(split) for split in self.facts.audio if split != "made"}
        makers: dict[str, str] = {}  # of each of ``FILES``, the digest of who makes it
        parts: list[Part] = []
        for file in dict.fromkeys(("test", str(step.file))):
            for name, evaluator, config in self._evaluators(file, cell):
                needs = common | {needed: makers.get(needed) for needed in evaluator.needs}
                if evaluator.reads_made and has_made(self.facts):
                    needs |= self._extraction_digests(["made"])
                stamp = Stamp(settings_of(config.get("init_args") or {}, self.run.folder), needs, evaluator.results)
                makers |= dict.fromkeys(evaluator.makes, stamp.digest)
                if file == step.file and (step.evaluators is None or evaluator.__name__ in step.evaluators):
                    path = cell.stamp(name)
                    part = self._part(step, name, path, stamp, there=_is_there(evaluator, cell, read_stamp(path)))
                    parts.append(part._replace(config=config, streams=evaluator.streams()))
        return parts

    def _evaluators(self, file: str, cell: Cell) -> Iterator[tuple[str, type[Evaluator], dict[str, Any]]]:
        """Return the evaluators of a YAML file: the name of each, its class, and its part of the file."""
        names = Counter[str]()
        for callback in self.config(file, self.cell_facts(cell))["trainer"]["callbacks"]:
            evaluator = import_class(callback["class_path"])
            if issubclass(evaluator, Evaluator) and not evaluator.lacks(callback.get("init_args") or {}):
                names[evaluator.__name__] += 1
                yield numbered(evaluator.__name__, names[evaluator.__name__]), evaluator, callback

    def _extraction_digests(self, splits: Sequence[str] | None = None) -> dict[str, str | None]:
        """Return the digests of the stamps of the activations, by default of those that everything is made from."""
        splits = splits or ["probe", *(["eval"] if self.facts.evaluation else [])]
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

    def cell(self, one: Work) -> Cell:
        """Return the cell that a step works on."""
        assert one.cell is not None
        return self.run.cell(*one.cell)

    def extracted(self, split: str) -> str:
        """Return the folder of the activations of a split."""
        if split == "made":
            return str(self.run.activations(split))
        return str(self.facts.activations if split == "probe" else self.facts.evaluation)

    def cell_facts(self, cell: Cell) -> dict[str, Any]:
        """Return the facts of a cell; at layers other than the run's own, the tables print AR&D alone."""
        facts = {"layer": cell.layer, "expansion": cell.expansion, "cell": str(cell.folder)}
        if cell.layer != self.facts.layer:
            facts["baselines"] = False
        return facts

    def movable_facts(self) -> dict[str, Any]:
        """Return the facts with paths in the run's folder as they lie there, so that it may be renamed and moved."""
        return plain(preset_facts(self.preset, {**self._given, "out": "."}))

    def setting(self, file: str, part: str, name: str) -> Any:
        """Return a setting of the model or the data of one of the preset's files."""
        return self.config(file, {})[part]["init_args"][name]

    def _settings(self, file: str, facts: dict[str, Any]) -> dict[str, Any]:
        return settings_of(self.config(file, facts), self.run.folder)

    def config(self, file: str, facts: dict[str, Any]) -> dict[str, Any]:
        """Return one of the preset's files with some facts changed; each is resolved once, which takes a while."""
        path = self.configs / f"{file}.yaml"
        key = json.dumps([str(path), facts])
        if key not in self._configs:
            self._configs[key] = resolved(path, self.facts, facts)
        return deepcopy(self._configs[key])


def reopened(run: Run) -> Agenda:
    """Return the agenda of a run that was begun, with the facts in its ``run.json``.

    Raises:
        UserError: if that cannot be read, or its preset no longer exists.
    """
    return Agenda(run.preset, {**_given(run), "out": str(run.folder)})


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


def is_begun(run: Run) -> bool:
    """Return whether there is a run, or at least its audio shards, which may be written before ``run.json``."""
    return run.path.is_file() or any((folder / LOCK).is_file() for folder in run.audio_folders)


def check_steps(names: Collection[str]) -> None:
    """Refuse names of steps that do not exist.

    Raises:
        UserError: with the first of them, and the steps.
    """
    if unknown := set(names) - {step.name for step in STEPS}:
        raise UserError(f"step {min(unknown)!r} does not exist: the steps are {', '.join(s.name for s in STEPS)}")


def _todo(one: Work, parts: Sequence[Part]) -> list[str]:
    """Say why each part of a step on a split or a cell is not done; no line where all of it is."""
    todo = [part for part in parts if part.why]
    return [f"{one}: {f'{part.name}: ' if len(parts) > 1 else ''}{part.why[0]}" for part in todo]


def _is_there(evaluator: type[Evaluator], cell: Cell, stamp: Stamp | None) -> bool:
    """Return whether the files of an evaluator are there.

    One with a stamp has those results that its stamp names; if these are none of its own, it found nothing to write.
    Where an earlier version did not name them, what it makes must be there.
    """
    if stamp is not None and evaluator.results and stamp.results == ():
        return True
    results = evaluator.results if stamp is None else stamp.results or ()
    files = [*map(cell.path, evaluator.makes), *map(cell.result_path, results)]
    return (bool(files) or stamp is not None) and all(path.is_file() for path in files)


def _spelled_alike(name: str, value: Any) -> Any:
    """Return a fact; a folder that it names gets its one absolute path."""
    is_path = name in ("model", "clap", "bertscore", "root") and value not in (None, EMBEDDED) and Path(value).exists()
    return str(Path(value).resolve()) if is_path else value
