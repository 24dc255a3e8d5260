"""A language model behind an OpenAI-compatible endpoint."""

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ard.naming.chat import Chat, Content, Keep
from ard.types import UserError

if TYPE_CHECKING:
    from openai import OpenAI

SHORTEST_KEY = 8  # what is shorter is a word, such as EMPTY, that stands in for a key at a server that wants none


class EndpointChat(Chat):
    """A model behind an OpenAI-compatible endpoint, by OpenAI's own client: their service, vLLM, `transformers serve`.

    Args:
        base_url: the endpoint, such as ``http://localhost:8000/v1``. It holds no password: it is written into logs.
        model: the model's name there.
        cache: where answers are kept (JSON lines); several chats may share it.
        max_tokens: longest answer.
        key_variable: the environment variable that holds the key, and the only place where it is looked for; an
            endpoint of one's own mostly wants none.
        concurrency: requests that are under way at a time.
        max_retries: how often the client asks again after 429, 5xx, or no answer, waiting longer each time, or as long
            as the server says.
        timeout_s: how long it waits for one answer.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        cache: Path,
        max_tokens: int = 128,
        key_variable: str = "OPENAI_API_KEY",
        concurrency: int = 8,
        max_retries: int = 6,
        timeout_s: float = 120.0,
    ) -> None:
        super().__init__(model, cache, max_tokens)
        self.base_url, self.key_variable = base_url, key_variable
        self.concurrency, self.max_retries, self.timeout_s = concurrency, max_retries, timeout_s

    def check(self) -> None:
        """Fail now and not after hours of other work: over a bad URL or key, or a server that was never there.

        Raises:
            UserError: if the URL is none, or holds what must not be written down; if no first answer can be had.
        """
        self._check_url()
        super().check()

    def _check_url(self) -> None:
        try:
            parts = urlsplit(self.base_url)
            _ = parts.port
        except ValueError:  # what cannot be taken apart may hold a password, and is not shown
            raise UserError(
                "the host or port of base_url cannot be read: give an endpoint such as 'http://localhost:8000/v1'"
            ) from None
        if parts.username or parts.password or parts.query:
            raise UserError(
                f"base_url for {parts.hostname!r} holds a password or a query, which would be written into logs: leave "
                f"it out, and put the key into the environment variable {self.key_variable}"
            )
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UserError(f"base_url {self.base_url!r} is no endpoint: give one such as 'http://localhost:8000/v1'")

    def _ask(self, prompts: Mapping[str, Content], keep: Keep) -> None:
        """Ask a few at a time; after a failure no more are sent, and those under way are still kept."""
        with self._client() as client, ThreadPoolExecutor(self.concurrency) as pool:

            def ask(key: str, prompt: Content) -> None:
                keep(key, self._answer(client, prompt))

            under_way = [pool.submit(ask, key, prompt) for key, prompt in prompts.items()]
            try:
                for done in as_completed(under_way):
                    done.result()
            finally:
                pool.shutdown(cancel_futures=True)

    @cached_property
    def _key(self) -> str | None:
        key = os.environ.get(self.key_variable, "").strip()
        if not (key.isascii() and key.isprintable() and " " not in key):  # the HTTP library would show it in its error
            raise UserError(
                f"the key in the environment variable {self.key_variable} has characters that no key has: set it again"
            )
        return key or None

    def _client(self) -> "OpenAI":
        from openai import OpenAI  # a second to import, and only some runs want it

        self._check_url()
        return OpenAI(
            base_url=self.base_url,
            api_key=self._key or "none",
            max_retries=self.max_retries,
            timeout=self.timeout_s,
        )

    def _answer(self, client: "OpenAI", prompt: Content) -> str:
        """Ask once, with the client's own retries; what comes back is shown without the key, should it hold it."""
        import openai

        where = f"endpoint {self.base_url!r}"
        again = f"then run the same command again: {len(self._answers.known)} answers are kept"
        try:
            completion: Any = client.chat.completions.create(**self._request(prompt))
            said = completion.choices[0].message.content
            if not isinstance(said, str | None):
                raise TypeError(f"an answer of {type(said).__name__}")
            return self._hidden(said or "")
        except (openai.AuthenticationError, openai.PermissionDeniedError):
            given = "refuses the key in" if self._key else "wants a key, and there is none in"
            problem = f"{where} {given} the environment variable {self.key_variable}: set it, {again}"
        except openai.NotFoundError as error:
            problem = f"{where} has no model {self.model!r} or is no such endpoint ({self._reason(error)}): mend either"
        except openai.APITimeoutError:
            problem = (
                f"{where} gave no answer within {self.timeout_s:g} s, asked {self.max_retries + 1} times: see to the "
                f"server, or raise timeout_s, {again}"
            )
        except (openai.RateLimitError, openai.InternalServerError) as error:
            problem = (
                f"{where} keeps failing (status {error.status_code}, {self._reason(error)}; max_retries is "
                f"{self.max_retries}): see to the server, or raise max_retries, {again}"
            )
        except openai.APIStatusError as error:
            problem = (
                f"{where} refuses a request (status {error.status_code}, {self._reason(error)}): see what it says of "
                f"model {self.model!r}, {again}"
            )
        except openai.APIConnectionError as error:
            problem = (
                f"{where} cannot be reached ({self._reason(error.__cause__ or error)}): start the server, such as "
                f"`vllm serve {self.model}`, or mend base_url, {again}"
            )
        except (openai.APIError, ValueError, AttributeError, IndexError, TypeError) as error:
            problem = (
                f"{where} answers what is no chat completion ({self._reason(error)}): is it OpenAI-compatible? Mend "
                f"base_url, {again}"
            )
        raise UserError(problem)

    def _reason(self, error: BaseException) -> str:
        response = getattr(error, "response", None)  # which says more than the client makes of it
        said = response.text if response is not None else str(error)
        return self._hidden(" ".join(said.split()) or type(error).__name__)[:200]

    def _hidden(self, text: str) -> str:
        secret = self._key if len(self._key or "") >= SHORTEST_KEY else None
        return text.replace(secret, "[key]") if secret else text
