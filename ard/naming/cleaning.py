"""From what a language model says to one short phrase."""

import re

LONGEST_NAME = 12  # words

_THOUGHT = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)
_BULLET = re.compile(r"^(?:[-*•>#]+|\d+[.)])\s+")
_GREETING = re.compile(r"^(?:sure|certainly|of course|okay)\b[!,.:]?\s*", re.IGNORECASE)
_MARKUP = re.compile(r"[*`]+|(?<!\w)_+|_+(?!\w)")
_NOTHING = re.compile(
    r"^\W*(?:(?:none|n/?a|unknown|nothing)\b\W*(?:$|\()|no (?:common|shared|single|clear)\b"
    r"|there (?:is|are) (?:no|not)\b|i(?: a|')m (?:sorry|unable)|sorry\b|i (?:cannot|can't|could not|couldn't)\b)"
    r"|\b(?:do|does) not (?:share|have)\b|\bno (?:common|shared) (?:sound|concept)",
    re.IGNORECASE,
)
_LABEL = re.compile(r"^[\w' -]*\b(?:concept|name|answer|label|phrase|summary)\b(?:\s*\([^)]*\))?\s*:\s*", re.IGNORECASE)
_LEADS = [
    re.compile(lead + r"\W*(?:(?:that|the (?:\w+ )?(?:sounds?|presence|concept)|sounds?) of\b\s*)?", re.IGNORECASE)
    for lead in (
        r"^.*?\bconcept\b[^.]*?\b(?:is|are|would be)\b",
        r"^.*?\b(?:sound|theme|element)s?\b[^.]*?\b(?:captions?|common)\b[^.]*?\b(?:is|are|would be)\b",
        r"^(?:all|both|the|these|each)\b[^.]*?\bcaptions?\b[^.]*?\b(?:describe|mention|feature|involve|include)s?\b",
    )
]
_ENDS = re.compile(r"(?<=\w{3})[.!?;](?:\s|$)|\s[–—-]\s|\s*\(")
_CLAUSES = re.compile(r",\s|\b(?:which|such as|including|with|particularly|often|characterized)\b", re.IGNORECASE)
_ARTICLE = re.compile(r"^(?:an?|the)\s+")
_EDGES = " \t\"'“”‘’«»„.,;:!?()[]{}"


def clean_name(answer: str) -> str | None:
    """Return the name that an answer holds, as one phrase of at most 12 words in lower case; None where it holds none.

    A model that is asked for a concept may quote it, mark it up, number it, announce it on a line of its own, say a
    whole sentence about it and explain it on further lines, or say that there is none.
    """
    lines = (_MARKUP.sub("", _BULLET.sub("", line.strip())).strip() for line in _THOUGHT.sub("\n", answer).splitlines())
    said = next((line for line in lines if line and not line.endswith(":")), "")
    if _NOTHING.search(said):
        return None
    name = _LABEL.sub("", _GREETING.sub("", said))
    for lead in _LEADS:
        name = lead.sub("", name)
    name = _shortened(name.lstrip(_EDGES), _ENDS)
    if len(name.split()) > LONGEST_NAME:
        name = _shortened(name, _CLAUSES)
    name = _ARTICLE.sub("", " ".join(name.strip(_EDGES).lower().split()))
    fits = len(name.split()) <= LONGEST_NAME and len(name) <= 100 and any(letter.isalpha() for letter in name)
    return name if fits and not _NOTHING.search(name) else None


def _shortened(name: str, end: re.Pattern[str]) -> str:
    """Return a name up to the first end that leaves something of it."""
    return next((name[: found.start()] for found in end.finditer(name) if name[: found.start()].strip(_EDGES)), name)
