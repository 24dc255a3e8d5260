"""Reduce the raw text of a language model to its final words."""

import html
import re
import unicodedata

# Unicode's default-ignorable characters, the blank letters and the blank braille pattern: all invisible.
_UNSEEN = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u2800\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\uffff\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
_COLOUR = re.compile("\x1b\\[[0-9;]*[A-Za-z]")
_ENTITY = re.compile(r"&#?\w{1,31};")

# gpt-oss marks its channels. If a tokenizer drops the marks, their words stay behind.
_FINAL_CHANNEL = re.compile(r"<\|channel\|>\s*final\b[^<]*<\|message\|>|assistantfinal(?=\W|[A-Z])")
_CHANNEL = re.compile(r"<\|channel\|>\s*(?:analysis|commentary)\b|\A\s*analysis(?=[A-Z])")

_THOUGHT = r"think(?:ing)?|thoughts?|reason(?:ing)?|reflection|analysis|scratchpad|seed:think"
_OPENED = re.compile(
    rf"<(?:{_THOUGHT})\b[^<>]*(?<!/)>|\[THINK\]|◁think▷|<\|(?:think|begin_of_thought|START_THINKING)\|>|<unused94>"
    r"|<\|channel>\s*thought",
    re.IGNORECASE,
)
_CLOSED = re.compile(
    rf"</\s*(?:{_THOUGHT})\s*>|\[/THINK\]|◁/think▷|<\|(?:/think|end_of_thought|END_THINKING)\|>|<unused95>|<channel\|>",
    re.IGNORECASE,
)
_ANSWER = re.compile(r"<(answer|response|output|final_answer)>(.*?)(?:</\1>|\Z)", re.IGNORECASE | re.DOTALL)

_ROLE = r"(?:assistant|model|ai|bot|chatbot)"
_TURN = r"(?:<\|(?:start_header_id|im_start|start|start_of_role)\|>|<start_of_turn>|<\|turn>)\s*"
_OWN_TURN = re.compile(rf"{_TURN}{_ROLE}\b", re.IGNORECASE)
_OTHER_TURN = re.compile(rf"{_TURN}(?:user|system|developer|tool|human)\b|<\|user\|>|<｜User｜>", re.IGNORECASE)
_TURN_ENDS = re.compile(
    r"</s>|<eos>|<end_of_turn>|<turn\|>|<｜end▁of▁sentence｜>"
    r"|<\|(?:eot_id|eom_id|im_end|end|endoftext|end_of_text|return|call|eot|END_OF_TURN_TOKEN|END_RESPONSE|eos)\|>"
)
_SPECIAL = re.compile(
    r"\[INST\][\s\S]*?\[/INST\]|"
    r"<\|[^<>|\n]{0,40}\|?>|<[^<>|\n]{1,40}\|>|<｜[^<>｜\n]{0,40}｜>|</?s>|</?(?:bos|eos|pad|unk|mask|(?:start|end)_of_turn)>"
    r"|<unused\d+>|<<?/?SYS>>?|\[/?(?:INST|SYSTEM_PROMPT|BOS|EOS|PAD|UNK)\]"
)
_ROLE_LINE = re.compile(rf"\A\s*{_ROLE}\s*(?::|\n|\Z)\s*", re.IGNORECASE)
_LAST_ROLE_LINE = re.compile(r"(?:\A|\n)[ \t]*assistant[ \t]*:?[ \t]*\n", re.IGNORECASE)


def final_words(answer: str) -> str:
    """Return what an answer says after its thoughts, without chat-template tokens and invisible characters.

    Thoughts end at the last closing mark, whether or not there was an opening one. Everything after an opening mark
    that is never closed is a thought too. Of several turns, the first that is not empty counts. The result is empty if
    the answer holds nothing but thoughts.
    """
    text = visible(answer)
    channels = list(_FINAL_CHANNEL.finditer(text))
    if channels:
        text = text[channels[-1].end() :]
    elif _CHANNEL.search(text):
        return ""
    text = _after_last(_CLOSED, text)
    opening = _OPENED.search(text)
    if opening:
        text = text[: opening.start()]
    answers = [inner for _, inner in _ANSWER.findall(text) if inner.strip()]
    if answers:
        text = answers[-1]
    if _OTHER_TURN.match(text.lstrip()):  # the answer repeats the prompt
        text = "".join(_OWN_TURN.split(text, maxsplit=1)[1:])
    text = _OWN_TURN.sub("", _OTHER_TURN.split(text)[0])
    turns = (_without_template(turn) for turn in _TURN_ENDS.split(text))
    return next((turn for turn in turns if turn), "")


def visible(text: str) -> str:
    """Return a text in composed form (NFC), with entities resolved, without control or zero-width characters."""
    text = _ENTITY.sub(lambda entity: html.unescape(entity[0]), _COLOUR.sub("", text))
    text = _UNSEEN.sub("", "\n".join(text.splitlines()))
    shown = (c if c in "\n\t" or unicodedata.category(c)[0] != "C" else "" for c in text)
    return unicodedata.normalize("NFC", "".join(shown))


def _without_template(turn: str) -> str:
    text = _after_last(_LAST_ROLE_LINE, _SPECIAL.sub("", turn).strip() + "\n")
    return _ROLE_LINE.sub("", text).strip()


def _after_last(mark: re.Pattern[str], text: str) -> str:
    ends = [match.end() for match in mark.finditer(text)]
    return text[ends[-1] :] if ends else text
