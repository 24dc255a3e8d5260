"""Ask the model about a clip: as it is, through the dictionary, and with concepts set, token by token."""

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast, get_args

from ard.app.subject import Subject
from ard.steering import Change, Phase, Where, compare_answers, features_set
from ard.steering.compare import SAE_ALONE, WITHOUT
from ard.types import Clip, UserError

MOST_SETTINGS = 4
MOST_TOKENS = 256
LONGEST_PROMPT = 2000
"""In characters."""

Setting = dict[int, float]
"""Features, each with the multiple of its maximum that it is set to; a feature at 0 is left out, and so not set."""


class Asked(NamedTuple):
    """What is asked of the model.

    Attributes:
        prompt: the question.
        settings: what is set, answer by answer.
        keep_error: see :func:`ard.steer`; a setting without features then changes nothing, to the last bit.
        positions: likewise.
        phase: likewise.
        max_new_tokens: most tokens of an answer.
    """

    prompt: str
    settings: list[Setting]
    keep_error: bool = True
    positions: Where = "all"
    phase: Phase = "prefill"
    max_new_tokens: int = 64


def read_asked(body: Mapping[str, Any]) -> Asked:
    """Read what a page asks for; ``settings`` are lists of ``{"feature": number, "value": multiple}``.

    Raises:
        UserError: if it is not what :class:`Asked` says.
    """
    prompt, settings = body.get("prompt"), body.get("settings")
    if not isinstance(prompt, str) or not prompt.strip() or len(prompt) > LONGEST_PROMPT:
        raise UserError(f"the question is empty or too long: give 1 to {LONGEST_PROMPT} characters")
    if not isinstance(settings, list) or not 1 <= len(settings) <= MOST_SETTINGS:
        raise UserError(f"settings {str(settings)[:80]!r} are not 1 to {MOST_SETTINGS}: give at least one")
    how = {name: body.get(name, default) for name, default in Asked._field_defaults.items()}
    tokens = how["max_new_tokens"]
    if not isinstance(tokens, int) or isinstance(tokens, bool) or not 1 <= tokens <= MOST_TOKENS:
        raise UserError(f"max_new_tokens {tokens!r} is not a whole number from 1 to {MOST_TOKENS}: give one")
    for name, values in (("positions", get_args(Where)), ("phase", get_args(Phase)), ("keep_error", (True, False))):
        if how[name] not in values:
            raise UserError(f"{name} {str(how[name])[:80]!r} is not known: give one of {list(values)}")
    return Asked(prompt, [_setting(setting) for setting in settings], **how)


def _setting(rows: object) -> Setting:
    setting: Setting = {}
    for row in rows if isinstance(rows, list) else [rows]:
        feature, value = (row.get(name) for name in ("feature", "value")) if isinstance(row, Mapping) else (None, None)
        if not isinstance(feature, int) or isinstance(feature, bool) or feature in setting:
            raise UserError(f"feature {str(feature)[:80]!r} is no number, or is given twice: give every feature once")
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= sys.float_info.max:
            raise UserError(f"value {repr(value)[:80]} of feature {feature} is no number from 0: give one, 0 or more")
        if value != 0:
            setting[feature] = float(value)
    return setting


def answer(
    subject: Subject, clip: Clip, asked: Asked, tell: Callable[[Mapping[str, Any]], None] = lambda event: None
) -> list[str]:
    """Answer without anything, through the dictionary with nothing set, and under each setting; return all answers.

    They are those of ``ard steer``. Between the tokens ``tell`` is given ``answer``, the place of an answer in the
    list, and its ``text`` so far; what it raises ends everything.

    Raises:
        UserError: if the model does not answer, or a feature cannot be set.
    """
    subject.model.check_answers()
    changes = [_change(subject, setting) for setting in asked.settings]
    answers: list[str] = []
    for group, keep_error in (([WITHOUT, SAE_ALONE], False), (changes, asked.keep_error)):
        first = len(answers)
        (of_clip,) = compare_answers(
            subject.model,
            subject.coder,
            subject.cell.layer,
            cast(Sequence[Change], group),
            [clip],
            asked.prompt,
            positions=asked.positions,
            phase=asked.phase,
            keep_error=keep_error,
            max_new_tokens=asked.max_new_tokens,
            watch=lambda place, texts, first=first: tell({"answer": first + place, "text": texts[0]}),  # type: ignore[misc]
        )
        answers += [one.answer for one in of_clip]
    return answers


def _change(subject: Subject, setting: Setting) -> Change:
    if not setting:
        return Change("nothing set", clamp={})
    features, values = list(setting), list(setting.values())
    (change,) = features_set(subject.coder, features, [values], maxima=subject.maxima, names=subject.names)
    return change
