"""A study on disk: its concepts, raters and answers in one SQLite file, each answer written before it is confirmed."""

import json
import random
import secrets
import sqlite3
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

from ard.results import replacing
from ard.types import UserError

HIGHEST = 5
"""Best rating; the worst is 0."""

LONGEST = 200
"""Most characters of a label or of a rater's name."""

Kind = Literal["person", "llm"]

SCHEMA = f"""
CREATE TABLE study (seed INTEGER NOT NULL);
CREATE TABLE concepts (
    key TEXT PRIMARY KEY, method TEXT NOT NULL, layer INTEGER NOT NULL, expansion INTEGER, feature INTEGER NOT NULL,
    name TEXT NOT NULL, clips TEXT NOT NULL, captions TEXT NOT NULL
);
CREATE TABLE raters (
    id TEXT PRIMARY KEY, name TEXT NOT NULL COLLATE NOCASE, kind TEXT NOT NULL CHECK (kind IN ('person', 'llm')),
    UNIQUE (name, kind)
);
CREATE TABLE answers (
    rater TEXT NOT NULL REFERENCES raters, concept TEXT NOT NULL REFERENCES concepts,
    label TEXT, labelled_at TEXT,
    rating INTEGER CHECK (rating BETWEEN 0 AND {HIGHEST}), rated_at TEXT,
    first_rating INTEGER CHECK (first_rating BETWEEN 0 AND {HIGHEST}), num_changes INTEGER NOT NULL DEFAULT 0,
    unanswered TEXT CHECK (unanswered IN ('cannot tell', 'unreadable')),
    PRIMARY KEY (rater, concept)
);
"""


class StoreError(UserError):
    """The file cannot be read or written now; every answer that was confirmed before is in it."""


class Concept(NamedTuple):
    """A concept that raters are asked about; ``key`` reveals nothing about it."""

    key: str
    method: str
    layer: int
    expansion: int | None
    feature: int
    name: str
    clips: tuple[str, ...]
    captions: tuple[str, ...]


class RaterEntry(NamedTuple):
    """A rater: a person or a language model; no row of a table mixes the two."""

    id: str
    name: str
    kind: Kind


class Answer(NamedTuple):
    """One rater's answer to one concept.

    The label was given before the rater saw the name, and is final. ``rating`` is the last one given, ``first_rating``
    the first, ``num_changes`` how often it changed. ``unanswered`` says why a language model has no label or rating.
    """

    rater: str
    kind: Kind
    concept: str
    label: str | None = None
    labelled_at: str | None = None
    rating: int | None = None
    rated_at: str | None = None
    first_rating: int | None = None
    num_changes: int = 0
    unanswered: str | None = None


class Store:
    """A study that :meth:`create` made.

    Every call opens the file, and every write is on disk (WAL, synchronous) when the call returns. So several processes
    can work on it, and any of them can be killed.

    Raises:
        UserError: if there is no study, or the file is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise UserError(f"there is no study in {str(path)!r}: make one with `ard study make --run DIR`")
        with self._open() as db:
            (state,) = db.execute("PRAGMA quick_check(1)").fetchone()
            seed = db.execute("SELECT seed FROM study").fetchone()
            if state != "ok" or seed is None:
                raise sqlite3.DatabaseError(state if seed else "it is empty")
            self.seed: int = seed[0]

    @classmethod
    def create(cls, path: Path, concepts: Sequence[Concept], seed: int) -> "Store":
        """Make a study of these concepts; it appears whole or not at all.

        A study that is there already is kept if its concepts and seed are the same, and refused if not.
        """
        if path.exists():
            store = cls(path)
            if store.concepts != tuple(concepts) or store.seed != seed:
                raise UserError(
                    f"{str(path)!r} is a study of other concepts, with {len(store.answers())} answers: export them, "
                    "then move its folder away, or go on with it (`ard app`)"
                )
            return store
        with replacing(path) as partial:
            with closing(sqlite3.connect(partial)) as db, db:
                db.executescript(SCHEMA)
                db.execute("INSERT INTO study VALUES (?)", (seed,))
                rows = [(*c[:-2], json.dumps(c.clips), json.dumps(c.captions)) for c in concepts]
                db.executemany("INSERT INTO concepts VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
            with closing(sqlite3.connect(partial)) as db:
                db.execute("PRAGMA journal_mode = WAL")
        return cls(path)

    @cached_property
    def concepts(self) -> tuple[Concept, ...]:
        """The concepts in the order in which they were drawn."""
        with self._open() as db:
            rows = db.execute("SELECT * FROM concepts ORDER BY rowid").fetchall()
        return tuple(Concept(*row[:-2], *(tuple(json.loads(listed)) for listed in row[-2:])) for row in rows)

    def join(self, name: object, kind: Kind = "person") -> RaterEntry:
        """Return the rater of this name, and add it if it is new."""
        text = _text(name, "rater's name")
        with self._open() as db:
            new = (secrets.token_hex(8), text, kind)
            db.execute("INSERT INTO raters VALUES (?, ?, ?) ON CONFLICT DO NOTHING", new)
            row = db.execute("SELECT id, name, kind FROM raters WHERE name = ? AND kind = ?", (text, kind)).fetchone()
        return RaterEntry(*row)

    def raters(self) -> list[RaterEntry]:
        """Return all raters, in the order in which they joined."""
        with self._open() as db:
            return [RaterEntry(*row) for row in db.execute("SELECT id, name, kind FROM raters ORDER BY rowid")]

    def order(self, rater: RaterEntry) -> list[Concept]:
        """Return the concepts in a rater's order, which depends only on the study's seed and the rater's name."""
        ordered = list(self.concepts)
        random.Random(f"{self.seed}/{rater.name.casefold()}").shuffle(ordered)
        return ordered

    def answers(self, rater: RaterEntry | None = None) -> list[Answer]:
        """Return the answers of one rater or of all, by rater and concept."""
        columns = ", ".join(f"answers.{field}" for field in Answer._fields[2:])
        query = f"SELECT raters.name, raters.kind, {columns} FROM answers JOIN raters ON raters.id = answers.rater"
        with self._open() as db:
            rows = db.execute(
                query + (" WHERE raters.id = ?" if rater else ""), (rater.id,) if rater else ()
            ).fetchall()
        place = {concept.key: place for place, concept in enumerate(self.concepts)}
        return sorted((Answer(*row) for row in rows), key=lambda a: (a.kind, a.rater.casefold(), place[a.concept]))

    def label(self, rater: RaterEntry, concept: Concept, label: object) -> Answer:
        """Save a rater's label and return what is saved: the first label stays, since the name was shown after it."""
        text = _text(label, "label")
        with self._open() as db:
            row = (rater.id, concept.key, text, _now())
            db.execute(
                "INSERT INTO answers (rater, concept, label, labelled_at) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
                row,
            )
        return self._answer(rater, concept)

    def rate(self, rater: RaterEntry, concept: Concept, rating: object) -> Answer:
        """Save a rating of a concept that the rater has labelled. A later one replaces it; changes are counted."""
        if not isinstance(rating, int) or isinstance(rating, bool) or not 0 <= rating <= HIGHEST:
            raise UserError(f"rating {rating!r} is not valid: give a whole number from 0 to {HIGHEST}")
        with self._open() as db:
            changed = db.execute(
                "UPDATE answers SET num_changes = num_changes + (rating IS NOT NULL AND rating != :rating), "
                "first_rating = coalesce(first_rating, :rating), "
                "rated_at = CASE WHEN rating IS :rating THEN rated_at ELSE :now END, rating = :rating "
                "WHERE rater = :rater AND concept = :concept AND label IS NOT NULL",
                {"rating": rating, "now": _now(), "rater": rater.id, "concept": concept.key},
            ).rowcount
        if not changed:
            raise UserError("a concept is labelled before it is rated: send its label first")
        return self._answer(rater, concept)

    def put(self, answers: Iterable[Answer]) -> int:
        """Add answers from elsewhere, all or none, and return how many are new or extend an answer that is here.

        Raises:
            UserError: if an answer is to a concept that is not in the study, or contradicts one that is here.
        """
        existing = {(a.rater.casefold(), a.kind, a.concept): a for a in self.answers()}
        keys = {concept.key for concept in self.concepts}
        fresh = []
        for answer in answers:
            _check(answer, keys)
            key = (answer.rater.casefold(), answer.kind, answer.concept)
            here = existing.get(key)
            if here is not None and not _extends(answer, here):
                if not _extends(here, answer):
                    raise UserError(
                        f"rater {answer.rater!r} has another answer here to concept {answer.concept!r} (label "
                        f"{here.label!r}, rating {here.rating}): nothing was imported"
                    )
                continue
            if here is None or here[3:] != answer[3:]:
                fresh.append(answer)
            existing[key] = answer
        ids = {(a.rater, a.kind): self.join(a.rater, a.kind).id for a in fresh}
        with self._open() as db:
            columns = ", ".join(Answer._fields[3:])
            marks = ", ".join("?" * (len(Answer._fields) - 1))
            rows = [(ids[a.rater, a.kind], *a[2:]) for a in fresh]
            db.execute("BEGIN IMMEDIATE")
            db.executemany(f"INSERT OR REPLACE INTO answers (rater, concept, {columns}) VALUES ({marks})", rows)
            db.execute("COMMIT")
        return len(fresh)

    def _answer(self, rater: RaterEntry, concept: Concept) -> Answer:
        return next(answer for answer in self.answers(rater) if answer.concept == concept.key)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """Open the file, which must be there; every statement commits by itself unless a transaction is begun."""
        try:
            uri = f"{self.path.absolute().as_uri()}?mode=rw"
            with closing(sqlite3.connect(uri, uri=True, timeout=10, isolation_level=None)) as db:
                db.execute("PRAGMA synchronous = FULL")
                db.execute("PRAGMA foreign_keys = ON")
                yield db
        except sqlite3.DatabaseError as error:
            raise StoreError(
                f"{str(self.path)!r} is damaged, no study, or cannot be used ({error}): nothing in it was changed; put "
                "a copy in its place, or make a study elsewhere and import what `ard study export` wrote"
            ) from error


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _text(text: object, what: str) -> str:
    words = " ".join(text.split()) if isinstance(text, str) else ""
    if not words or len(words) > LONGEST or any(unicodedata.category(character) in ("Cc", "Cs") for character in words):
        raise UserError(f"the {what} {str(text)[:40]!r} is empty, too long or not text: give 1 to {LONGEST} characters")
    return words


def _check(answer: Answer, keys: set[str]) -> None:
    """Refuse an answer that this study cannot have received."""
    where = f"the answer of rater {answer.rater!r} to concept {answer.concept!r}"
    if answer.concept not in keys:
        raise UserError(f"{where} is not of this study, which has no such concept: nothing was imported")
    _text(answer.rater, "rater's name")
    if answer.kind not in ("person", "llm"):
        raise UserError(f"{where} has the kind {answer.kind!r}, which is neither person nor llm: nothing was imported")
    if answer.label is not None:
        _text(answer.label, "label")
    for rating in (answer.rating, answer.first_rating):
        if rating is not None and (not isinstance(rating, int) or not 0 <= rating <= HIGHEST):
            raise UserError(f"{where} has the rating {rating!r}, not one from 0 to {HIGHEST}: nothing was imported")
    if answer.rating is not None and answer.label is None:
        raise UserError(f"{where} has a rating and no label: nothing was imported")
    if answer.label is None and answer.unanswered is None:
        raise UserError(f"{where} is empty: nothing was imported")


def _extends(later: Answer, earlier: Answer) -> bool:
    """Return whether an answer equals an earlier one, or continues it."""
    if later.label != earlier.label and earlier.label is not None:
        return False
    if earlier.rating is None:
        return True
    if later.rating is None or later.num_changes < earlier.num_changes:
        return False
    return later.num_changes > earlier.num_changes or later.rating == earlier.rating
