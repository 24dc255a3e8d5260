"""Export and import a study's answers, as CSV and as Label Studio's JSON."""

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ard.results import replacing
from ard.study.store import HIGHEST, Answer, Concept, Store
from ard.types import UserError

ABOUT = ("method", "layer", "expansion", "feature", "name")
COLUMNS = ("rater", "kind", "concept", *ABOUT, *Answer._fields[3:])
NUMBERS = ("rating", "first_rating", "num_changes")
KEPT = ("kind", *Answer._fields[3:])
"""What an annotation carries besides its regions, so that our own export can be imported again."""


def write_answers(store: Store, folder: Path) -> list[Path]:
    """Write ``ratings.csv`` (a row per answer), ``label-studio.json`` (a task per concept) and its configuration."""
    concepts, answers = store.concepts, store.answers()
    paths = [folder / name for name in ("ratings.csv", "label-studio.json", "label-studio.xml")]
    tasks = [_task(place, concept, answers) for place, concept in enumerate(concepts, 1)]
    with replacing(paths[0]) as table, replacing(paths[1]) as exported, replacing(paths[2]) as configuration:
        with table.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            of_key = {concept.key: concept._asdict() for concept in concepts}
            writer.writerows({**{c: of_key[a.concept][c] for c in ABOUT}, **a._asdict()} for a in answers)
        exported.write_text(json.dumps(tasks, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        configuration.write_text(labelling(max(len(concept.clips) for concept in concepts)), encoding="utf-8")
    return paths


def read_answers(path: Path, store: Store) -> list[Answer]:
    """Read answers from a CSV or JSON file that :func:`write_answers` or Label Studio wrote.

    Raises:
        UserError: if the file cannot be read, is incomplete, or has concepts that the study does not have.
    """
    readers = {".csv": _from_csv, ".json": _from_label_studio}
    if path.suffix.lower() not in readers:
        raise UserError(f"{str(path)!r} is neither .csv nor .json: give a file that `ard study export` wrote")
    concepts = {concept.key: concept for concept in store.concepts}
    try:
        return list(readers[path.suffix.lower()](path.read_text(encoding="utf-8-sig"), concepts))
    except (
        OSError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        ArithmeticError,
        RecursionError,
        csv.Error,
    ) as error:
        reason = f"{type(error).__name__}: {error}" if isinstance(error, KeyError) else error
        raise UserError(f"{str(path)!r} holds no ratings that can be read ({reason}): nothing was imported") from error


def _from_csv(text: str, concepts: Mapping[str, Concept]) -> Iterator[Answer]:
    if not text.strip():
        raise ValueError("it has no answers")
    for number, row in enumerate(csv.DictReader(io.StringIO(text, newline="")), 2):
        missing = [column for column in ("rater", "kind", "concept", "label", "rating") if row.get(column) is None]
        if missing:
            raise ValueError(f"line {number} lacks {', '.join(missing)}")
        _check_concept(row, concepts)
        fields: dict[str, Any] = {field: row.get(field) or None for field in Answer._fields}
        for field in NUMBERS:
            fields[field] = _whole_number(fields[field])
        yield _complete(fields)


def _from_label_studio(text: str, concepts: Mapping[str, Concept]) -> Iterator[Answer]:
    for task in json.loads(text):
        data = task["data"]
        _check_concept(data, concepts)
        for annotation in task.get("annotations", ()):
            if annotation.get("was_cancelled"):
                continue
            values = {region["from_name"]: region["value"] for region in annotation["result"]}
            choice = values.get("rating", {})
            rating = choice.get("rating", choice.get("choices", [None])[0])
            fields = {
                "kind": "person",
                "labelled_at": annotation.get("created_at"),
                "rated_at": annotation.get("updated_at") if rating is not None else None,
                **annotation.get("ard", {}),
                "rater": values["rater"]["text"][0] if "rater" in values else _name(annotation.get("completed_by")),
                "concept": data["concept"],
                "label": values["label"]["text"][0] if "label" in values else None,
                "rating": _whole_number(rating),
            }
            yield _complete({field: fields.get(field) for field in Answer._fields})


def _name(completed_by: Any) -> str:
    """Return who made an annotation in Label Studio: an e-mail address, or else a number."""
    name = completed_by.get("email") or completed_by.get("id") if isinstance(completed_by, Mapping) else completed_by
    if name is None:
        raise ValueError("an annotation does not say who made it: neither a region 'rater' nor 'completed_by'")
    return str(name)


def _whole_number(value: Any) -> int | None:
    """Read a number that must be whole: 3.7 is refused, not rounded to 3."""
    if value is None:
        return None
    if isinstance(value, float) and not value.is_integer():
        raise ValueError(f"{value} is not a whole number")
    return int(value)


def _complete(fields: dict[str, Any]) -> Answer:
    """Make an answer, filling in what a file may leave out."""
    if fields["rating"] is not None and fields["first_rating"] is None:
        fields["first_rating"] = fields["rating"]
    return Answer(**{**fields, "rater": fields["rater"] or "", "num_changes": fields["num_changes"] or 0})


def _check_concept(row: Mapping[str, Any], concepts: Mapping[str, Concept]) -> None:
    """Refuse a row if the study does not have its concept, or has another one under that key."""
    concept = concepts.get(row["concept"])
    if concept is None:
        raise ValueError(f"concept {row['concept']!r} is not of this study")
    for column in ("feature", "name"):
        if row.get(column) is not None and str(row[column]) != str(getattr(concept, column)):
            raise ValueError(f"concept {row['concept']!r} has another {column} here: this is another study's file")


def labelling(num_clips: int) -> str:
    """Return Label Studio's labelling configuration for these tasks.

    The rating is a choice and not Label Studio's stars, since stars begin at 1 and the scale begins at 0.
    """
    audio = "\n".join(f'  <Audio name="clip{n}" value="$clip{n}"/>' for n in range(1, num_clips + 1))
    scale = "".join(f'<Choice value="{rating}"/>' for rating in range(HIGHEST + 1))
    return (
        f"<View>\n{audio}\n"
        '  <TextArea name="rater" toName="clip1" maxSubmissions="1" placeholder="Your name"/>\n'
        '  <TextArea name="label" toName="clip1" maxSubmissions="1" placeholder="What these sounds have in common"/>\n'
        '  <Text name="name" value="$name"/>\n'
        f'  <Choices name="rating" toName="clip1" choice="single-radio" showInline="true">{scale}</Choices>\n'
        "</View>\n"
    )


def _task(place: int, concept: Concept, answers: Sequence[Answer]) -> dict[str, Any]:
    facts = {column: getattr(concept, column) for column in ABOUT}
    clips = {f"clip{number}": clip for number, clip in enumerate(concept.clips, 1)}
    own = [answer for answer in answers if answer.concept == concept.key]
    annotations = [{"id": 1000 * place + number, **_annotation(answer)} for number, answer in enumerate(own, 1)]
    return {"id": place, "data": {"concept": concept.key, **facts, **clips}, "annotations": annotations}


def _annotation(answer: Answer) -> dict[str, Any]:
    def region(name: str, kind: str, value: Mapping[str, Any]) -> dict[str, Any]:
        return {"id": name, "from_name": name, "to_name": "clip1", "type": kind, "value": value}

    result = [region("rater", "textarea", {"text": [answer.rater]})]
    if answer.label is not None:
        result.append(region("label", "textarea", {"text": [answer.label]}))
    if answer.rating is not None:
        result.append(region("rating", "choices", {"choices": [str(answer.rating)]}))
    kept = {field: getattr(answer, field) for field in KEPT if field not in ("label", "rating")}
    return {
        "result": result,
        "was_cancelled": False,
        "ground_truth": False,
        "created_at": answer.labelled_at,
        "updated_at": answer.rated_at or answer.labelled_at,
        "ard": kept,
    }
