"""Language models that answer prompts, with every answer kept on disk."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

from ard.console import Progress
from ard.naming.answers import Answers, request_key
from ard.naming.final import final_words
from ard.types import UserError

Content = str | list[dict[str, Any]]  # text, or content parts of OpenAI's API, such as text and input_audio
MOST_IN_A_ROW = 20  # prompts without an answer, after which the others would fare no better
EMPTY, CUT, FILTERED = "the answer is empty", "the answer is cut short", "the answer was withheld"
REFUSED, ONLY_THOUGHTS = "the prompt is refused", "the answer holds nothing but thoughts"


class Reply(NamedTuple):
    """A whole answer, or the reason why there is none: a kind that can be counted, and details after a colon."""

    text: str | None
    reason: str | None = None
    lasts: bool = False  # asking the same prompt again would not help


def kind_of(reason: str) -> str:
    """Return a reason without its details."""
    return reason.partition(": ")[0]


Keep = Callable[[str, Reply], None]


class Chat(ABC):
    """A language model that answers single user messages greedily.

    Every whole answer is kept on disk as soon as it arrives, under its request (model, messages, parameters), so that a
    killed run pays for none of them twice. A lasting refusal is kept too, once the model has answered another prompt.
    An empty or truncated answer is not kept, and the next run asks again.

    Attributes:
        model: the model's name.
        parameters: the sampling parameters of a request.
    """

    def __init__(self, model: str, cache: Path, max_tokens: int) -> None:
        self.model = model
        self.parameters = {"temperature": 0, "max_tokens": max_tokens}
        self._answers = Answers(Path(cache))

    def __call__(self, prompts: Sequence[Content], description: str = "answers") -> list[Reply]:
        """Return the model's final words for every prompt, or the reason why there are none.

        Duplicates, and prompts that were answered before, are not asked again.

        Raises:
            UserError: if the model cannot be asked, or fails to answer many times in a row. Earlier answers are kept.
        """
        keys = [request_key(self._request(prompt)) for prompt in prompts]
        self._answers.read()
        answers, refused = self._answers.known, self._answers.refused
        replies = {key: Reply(None, refused[key], lasts=True) for key in keys if key in refused}
        replies |= {key: Reply(answers[key]) for key in keys if answers.get(key, "").strip()}
        missing = {key: prompt for key, prompt in zip(keys, prompts, strict=True) if key not in replies}
        if missing:
            with Progress(description, len(missing), "questions") as progress:
                session = _Session(self, replies, progress.advance)
                self._ask(missing, session.take)
                session.end()
        return [_final(replies[key]) for key in keys]

    def check(self) -> None:
        """Fail now rather than after hours of other work, by asking a first question, whose answer is kept.

        Raises:
            UserError: if it cannot be answered.
        """
        (reply,) = self(["Say one word."])
        if reply.text is None and kind_of(reply.reason or "") not in (CUT, ONLY_THOUGHTS):
            raise self.unanswered(f"gives no answer to a first question ({reply.reason})")

    def unanswered(self, problem: str) -> UserError:
        """Return the error of a model that gives no answers; ``problem`` continues the sentence after its name."""
        return UserError(
            f"{self._name} {problem}: check it, or raise max_tokens ({self.parameters['max_tokens']}) for a model "
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
        """Ask the prompts, given by key, and pass each reply to ``keep`` as it arrives."""


class _Session:
    """Collect replies while prompts are asked; whole answers and lasting refusals are kept on disk."""

    def __init__(self, chat: Chat, replies: dict[str, Reply], advance: Callable[[], None]) -> None:
        self.chat, self.replies, self.advance = chat, replies, advance
        self.refusals: dict[str, str] = {}  # may be the settings' fault until something is answered
        self.has_answers, self.num_in_a_row = False, 0
        self.lock = Lock()

    def take(self, key: str, reply: Reply) -> None:
        """Take a reply, from any thread; raise UserError after too many without an answer in a row."""
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
        """Keep the refusals on disk, if there were answers too."""
        if self.has_answers:
            for key, reason in self.refusals.items():
                self.chat._answers.refuse(key, reason)
            self.refusals.clear()


def _final(reply: Reply) -> Reply:
    """Return a reply with only the final words of its answer."""
    if reply.text is None:
        return reply
    words = final_words(reply.text)
    return Reply(words) if words else Reply(None, ONLY_THOUGHTS)
