"""Language models that answer prompts, and keep every answer."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

from rich.progress import Progress

from ard.naming.answers import Answers, request_key
from ard.naming.final import final_words
from ard.types import UserError

Content = str | list[dict[str, Any]]  # text, or content parts as OpenAI's API has them, such as text and input_audio
MOST_IN_A_ROW = 20  # prompts without an answer; what comes after them would be no better
EMPTY, CUT, FILTERED = "the answer is empty", "the answer is cut short", "the answer was withheld"
REFUSED, ONLY_THOUGHTS = "the prompt is refused", "the answer holds nothing but thoughts"


class Reply(NamedTuple):
    """A whole answer, or the reason why there is none: a kind that can be counted, and details after a colon."""

    text: str | None
    reason: str | None = None
    lasts: bool = False  # the same prompt would never be answered


def kind_of(reason: str) -> str:
    """Return a reason without its details."""
    return reason.partition(": ")[0]


Keep = Callable[[str, Reply], None]


class Chat(ABC):
    """A language model that is given one user message and answers it, by its most likely words.

    Every whole answer is kept on disk when it comes, under what was asked (model, messages, parameters), so that a run
    that is killed pays for none of them twice. That a prompt is refused for good is kept, too, once the model has
    answered another one. An empty answer, or one that was cut short, is asked for again by the next run.

    Attributes:
        model: the model's name.
        parameters: what is asked of its answers.
    """

    def __init__(self, model: str, cache: Path, max_tokens: int) -> None:
        self.model = model
        self.parameters = {"temperature": 0, "max_tokens": max_tokens}
        self._answers = Answers(Path(cache))

    def __call__(self, prompts: Sequence[Content], description: str = "answers") -> list[Reply]:
        """Answer every prompt with the model's final words, or say why there are none.

        Prompts that were answered before, and doubles, are not asked again.

        Raises:
            UserError: if the model cannot be asked, or gives no answer many times in a row; what came before is kept.
        """
        keys = [request_key(self._request(prompt)) for prompt in prompts]
        known, refused = self._answers.known, self._answers.refused
        replies = {key: Reply(None, refused[key], lasts=True) for key in keys if key in refused}
        replies |= {key: Reply(known[key]) for key in keys if known.get(key, "").strip()}
        missing = {key: prompt for key, prompt in zip(keys, prompts, strict=True) if key not in replies}
        if missing:
            with Progress(transient=True) as progress:
                task = progress.add_task(description, total=len(missing))
                session = _Session(self, replies, lambda: progress.advance(task))
                self._ask(missing, session.take)
                session.end()
        return [_final(replies[key]) for key in keys]

    def check(self) -> None:
        """Fail now and not after hours of other work, by a first question, which is asked once.

        Raises:
            UserError: if it cannot be answered.
        """
        (reply,) = self(["Say one word."])
        if reply.text is None and kind_of(reply.reason or "") not in (CUT, ONLY_THOUGHTS):
            raise self.unanswered(f"gives no answer to a first question ({reply.reason})")

    def unanswered(self, problem: str) -> UserError:
        """Return the error of a model that gives no answers; ``problem`` goes on from its name."""
        return UserError(
            f"{self._name} {problem}: see to it, or raise max_tokens ({self.parameters['max_tokens']}) for a model "
            f"that thinks first, then run the same command again: {len(self._answers.known)} answers are kept"
        )

    @property
    def _name(self) -> str:
        return f"model {self.model!r}"

    def _request(self, prompt: Content) -> dict[str, Any]:
        messages = [{"role": "user", "content": prompt}]
        return {"model": self.model, "messages": messages, **self.parameters}

    @abstractmethod
    def _ask(self, prompts: Mapping[str, Content], keep: Keep) -> None:
        """Ask what is given by key, and keep each reply when it comes."""


class _Session:
    """What comes back while prompts are asked: whole answers and lasting refusals are written down."""

    def __init__(self, chat: Chat, replies: dict[str, Reply], advance: Callable[[], None]) -> None:
        self.chat, self.replies, self.advance = chat, replies, advance
        self.refusals: dict[str, str] = {}  # which may be the fault of the settings, as long as nothing is answered
        self.has_answers, self.num_in_a_row = False, 0
        self.lock = Lock()

    def take(self, key: str, reply: Reply) -> None:
        """Take a reply from any thread; raise UserError after too many in a row that are none."""
        with self.lock:
            self.replies[key] = reply
            if reply.text is not None:
                self.chat._answers.keep(key, reply.text)
                self.has_answers = True
                self.end()
            elif reply.lasts:
                self.refusals[key] = str(reply.reason)
            self.num_in_a_row = 0 if _final(reply).text is not None else self.num_in_a_row + 1
            if self.num_in_a_row >= MOST_IN_A_ROW:
                raise self.chat.unanswered(
                    f"gives no answer to {MOST_IN_A_ROW} prompts in a row ({_final(reply).reason})"
                )
        self.advance()

    def end(self) -> None:
        """Write down the refusals, if they are not all that came."""
        if self.has_answers:
            for key, reason in self.refusals.items():
                self.chat._answers.refuse(key, reason)
            self.refusals.clear()


def _final(reply: Reply) -> Reply:
    """Return a reply with nothing but the final words of its answer."""
    if reply.text is None:
        return reply
    words = final_words(reply.text)
    return Reply(words) if words else Reply(None, ONLY_THOUGHTS)
