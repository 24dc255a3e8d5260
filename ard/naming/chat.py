"""Language models that answer prompts, and keep every answer."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.progress import Progress

from ard.naming.answers import Answers, request_key

Content = str | list[dict[str, Any]]  # text, or content parts as OpenAI's API has them, such as text and input_audio
Keep = Callable[[str, str], None]


class Chat(ABC):
    """A language model that is given one user message and answers it, by its most likely words.

    Every answer is kept on disk when it comes, under what was asked (model, messages, parameters), so that a run that
    is killed pays for none of them twice.

    Attributes:
        model: the model's name.
        parameters: what is asked of its answers.
    """

    def __init__(self, model: str, cache: Path, max_tokens: int) -> None:
        self.model = model
        self.parameters = {"temperature": 0, "max_tokens": max_tokens}
        self._answers = Answers(Path(cache))

    def __call__(self, prompts: Sequence[Content], description: str = "answers") -> list[str]:
        """Answer every prompt; those that were answered before, and doubles, are not asked again.

        Raises:
            UserError: if an answer cannot be had; those that came before are kept.
        """
        keys = [request_key(self._request(prompt)) for prompt in prompts]
        known = self._answers.known
        missing = {key: prompt for key, prompt in zip(keys, prompts, strict=True) if key not in known}
        if missing:
            with Progress(transient=True) as progress:
                task = progress.add_task(description, total=len(missing))

                def keep(key: str, answer: str) -> None:
                    self._answers.keep(key, answer)
                    progress.advance(task)

                self._ask(missing, keep)
        return [known[key] for key in keys]

    def check(self) -> None:
        """Fail now and not after hours of other work, by a first question where no answer is kept yet.

        Raises:
            UserError: if it cannot be answered.
        """
        if not self._answers.known:
            self(["Say one word."])

    def _request(self, prompt: Content) -> dict[str, Any]:
        messages = [{"role": "user", "content": prompt}]
        return {"model": self.model, "messages": messages, **self.parameters}

    @abstractmethod
    def _ask(self, prompts: Mapping[str, Content], keep: Keep) -> None:
        """Ask what is given by key, and keep each answer when it comes."""
