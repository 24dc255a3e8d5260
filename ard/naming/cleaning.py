"""Reduce a language model's answer to one short phrase."""

import ast
import json
import re
from typing import Any

from ard.naming.final import final_words
from ard.naming.refusals import names_nothing

LONGEST_NAME = 12  # words
LONGEST_LINE = 100  # characters
READ = 2000  # characters of a line that are examined; a name stands at the start
MARKUP = r"*`<>{}[]|\^~"  # characters that never occur in a name

_BOXED = re.compile(r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
_TEX = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|emph)\s*\{([^{}]*)\}")
_TEX_MARKS = re.compile(r"\\[()\[\]]|\$")
_FENCE = re.compile(r"^\s*(?:```|~~~)[ \t]*[\w+-]*[ \t]*$", re.MULTILINE)
_INLINE_FENCE = re.compile(r"```(?:json|text|markdown|plaintext)?", re.IGNORECASE)
_TAG = re.compile(r"</?(?:b|i|u|s|em|strong|span|code|pre|h[1-6]|ul|ol|a|sub|sup|mark|small)\b[^<>]*>", re.IGNORECASE)
_PAIR = re.compile(r"<([a-z][\w:-]*)\b[^<>]*>(.*?)</\1\s*>", re.IGNORECASE | re.DOTALL)
_BREAK = re.compile(r"<(?:br|/?p|/?div|/?li)\s*/?>", re.IGNORECASE)
_LINK = re.compile(r"!?\[([^\[\]]*)\]\([^()\s]*\)")
_BULLET = re.compile(r"^(?:[-*•>#+–—]+|\(?\d+[.)])\s+")
_MARKS = re.compile(r"[*`~]+|(?<!\w)_+|_+(?!\w)")
_FIELD = re.compile(r"concept|name|answer|label|phrase|sound|result|output|response|description", re.IGNORECASE)
_FINAL_ANSWER = re.compile(r"^\W*(?:the |my |final )*answer\W*?(?:\bis\b\W*?)?[:\uff1a]", re.IGNORECASE | re.MULTILINE)
_GREETING = re.compile(
    r"^(?:(?:sure|certainly|of course|okay|ok|absolutely|great question|got it)\b(?: thing)?"
    r"(?:[!,.:]\s*|\s+(?=here|the)))+",
    re.IGNORECASE,
)
_LABEL = re.compile(
    r"^[\w' -]*\b(?:concept|name|answer|label|phrase|summary|result|response|output|sound|theme)\b(?:\s*\([^)]*\))?"
    r"[\"']?\s*[:\uff1a]\s*",
    re.IGNORECASE,
)
_THING = r"\b(?:sound|theme|element|thread|feature)s?\b"
_LEADS = [
    re.compile(lead + r"\W*(?:(?:that|the (?:\w+ )?(?:sounds?|presence|concept)|sounds?) of\b\s*)?", re.IGNORECASE)
    for lead in (
        r"^.*?\bconcept\b[^.]*?\b(?:is|are|would be)\b",
        rf"^.*?{_THING}[^.]*?\b(?:captions?|common|shared?)\b[^.]*?\b(?:is|are|would be)\b",
        rf"^.*?\b(?:common|shared)\b[^.]*?{_THING}[^.]*?\b(?:is|are|would be)\b",
        r"^(?:all|both|the|these|each)\b[^.]*?\bcaptions?\b[^.]*?\b(?:describe|mention|feature|involve|include)s?\b",
    )
]
_ENDS = re.compile(r"(?<=\w{3})[.!?;](?:\s|$)|[\u3002\uff01\uff1f\uff1b]|\s[–—-]\s|\s*[(\uff08]")
_CLAUSES = re.compile(r",\s|\b(?:which|such as|including|with|particularly|often|characterized)\b", re.IGNORECASE)
_ARTICLE = re.compile(r"^(?:an?|the)\s+")
_EDGES = " \t\"'“”‘’«»„‚‹›「」『』《》.,;:!?()[]{}。、\uff0c\uff0e\uff1a\uff1b\uff01\uff1f\uff08\uff09=_-–—/#&$%+•·…"


def clean_name(answer: str) -> str | None:
    """Return the name that an answer finally gives; None if it gives none.

    A name is one phrase in lower case: at most 12 words with one space between them, at most 100 characters, at least
    one letter, nothing to be trimmed, no control or zero-width character, no markup (none of ``MARKUP``), no token of a
    chat template. Cleaning a name again does not change it.

    A model that is asked for a concept may think aloud first, quote its answer, mark it up, number it, put it into JSON
    or a box, announce it on a separate line, wrap it in a sentence, explain it on further lines, say that there is
    none, or refuse.
    """
    name = answer
    for _ in range(8):  # removing one layer may reveal another; real answers have one or two
        cleaned = _cleaned(name)
        if cleaned is None or cleaned == name:
            return cleaned
        name = cleaned
    return None


def _cleaned(answer: str) -> str | None:
    text = _field(_unboxed(final_words(answer).translate(_QUOTES)))
    if text is None:
        return None
    text = _TAG.sub("", _PAIR.sub(r"\2", _BREAK.sub("\n", _LINK.sub(r"\1", text))))
    conclusions = [text[match.end() :] for match in _FINAL_ANSWER.finditer(text)]
    text = next((rest for rest in reversed(conclusions) if any(map(str.isalnum, rest))), text)
    lines = (_MARKS.sub("", _BULLET.sub("", line.strip())).strip()[:READ] for line in text.splitlines())
    phrase = next((line for line in lines if line.strip(_EDGES) and not line.endswith((":", "\uff1a"))), "")
    if names_nothing(phrase):
        return None
    name = _phrase(phrase)
    words = name.split()
    fits = len(words) <= LONGEST_NAME and len(name) <= LONGEST_LINE and any(letter.isalpha() for letter in name)
    return name if fits and not names_nothing(name) else None


def _phrase(line: str) -> str:
    """Return a line without the words that lead up to its name, and without those that explain it."""
    name = _LABEL.sub("", _GREETING.sub("", line))
    if names_nothing(name):
        return name
    for lead in _LEADS:
        name = lead.sub("", name)
    name = _shortened(name.lstrip(_EDGES), _ENDS)
    if len(name.split()) > LONGEST_NAME:
        name = _shortened(name, _CLAUSES)
    plain = name.translate(_NO_MARKUP).lower()
    return _ARTICLE.sub("", " ".join(plain.split()).strip(_EDGES)).strip(_EDGES)


def _unboxed(text: str) -> str:
    """Return the content of the last TeX box of an answer, or else the answer, without TeX markup."""
    boxes = [box for box in _BOXED.findall(text) if box.strip()]
    return _TEX_MARKS.sub("", _TEX.sub(r"\1", boxes[-1] if boxes else text))


def _field(text: str) -> str | None:
    """Return the value in a JSON answer, fenced or bare, or else the answer; None if there is no single value."""
    plain = _INLINE_FENCE.sub("", _FENCE.sub("", text)).strip()
    start = min((place for place in (plain.find("{"), plain.find("[")) if place >= 0), default=-1)
    if start < 0 or (start and not re.search(r"[:\uff1a\n]\s*\Z", plain[:start])):
        return plain
    end = max(plain.rfind("}"), plain.rfind("]")) + 1
    for read in (json.loads, ast.literal_eval):
        try:
            value = read(plain[start:end])
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            continue
        return _one_value(value)
    return plain if plain[start] == "[" else None


def _one_value(value: Any) -> str | None:
    """Return the only text in a JSON value; among several fields, take the first that is called a name or the like."""
    for _ in range(4):
        if isinstance(value, dict):
            if "arguments" in value or "parameters" in value:  # a tool call
                return None
            named = [key for key in value if _FIELD.search(str(key))]
            chosen = named if len(value) > 1 else list(value)
            if not chosen:
                return None
            value = value[chosen[0]]
        elif isinstance(value, list | tuple) and len(value) == 1:
            value = value[0]
        else:
            break
    return value if isinstance(value, str) else None


def _shortened(name: str, end: re.Pattern[str]) -> str:
    """Return a name up to the first end that leaves something before it."""
    return next((name[: match.start()] for match in end.finditer(name) if name[: match.start()].strip(_EDGES)), name)


_QUOTES = str.maketrans(dict.fromkeys("’‘ʼ\uff07´", "'"))
_NO_MARKUP = str.maketrans(dict.fromkeys(MARKUP, " "))
