"""A language model behind an OpenAI-compatible endpoint."""

import os
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import cached_property
from http import HTTPStatus
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from ard.naming.chat import CUT, EMPTY, FILTERED, REFUSED, Chat, Content, Keep, Reply
from ard.types import UserError

if TYPE_CHECKING:
    from openai import OpenAI

TOO_LARGE = 413  # a status that concerns a single prompt
STATUSES = {  # by a word in an error's type or code, if it has no status
    "rate": 429,
    "quota": 429,
    "overload": 503,
    "unavailable": 503,
    "timeout": 503,
    "authentication": 401,
    "api_key": 401,
    "permission": 403,
    "not_found": 404,
    "invalid_request": 400,
    "context_length": 400,
    "content_filter": 400,
}
_WAIT = re.compile(r"(?:try again|retry)\w*\s+(?:in|after)\s+(\d+(?:\.\d+)?)\s*s", re.IGNORECASE)
SHORTEST_KEY = 8  # anything shorter is a placeholder such as EMPTY, for servers without keys


class EndpointChat(Chat):
    """A model behind an OpenAI-compatible endpoint (OpenAI, vLLM, `transformers serve`), through OpenAI's own client.

    Args:
        base_url: the endpoint, such as ``http://localhost:8000/v1``. It must not hold a password, because it is written
            into logs.
        model: the model's name there.
        cache: where answers are kept (JSON lines); several chats may share it.
        max_tokens: length limit of an answer, in tokens.
        key_variable: the environment variable that holds the key, which is looked for nowhere else; one's own endpoint
            usually needs none.
        concurrency: requests under way at a time.
        max_retries: how often the client asks again after 429, 5xx, or no answer. It waits longer each time, or as long
            as the server asks.
        timeout_s: how long to wait for one answer.
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
        """Fail now rather than after hours of other work, if the URL or key is bad, or the server is not there.

        Raises:
            UserError: if the URL is invalid or holds a secret, or if a first question gets no answer.
        """
        self._check_url()
        super().check()

    def _check_url(self) -> None:
        try:
            parts = urlsplit(self.base_url)
            _ = parts.port
        except ValueError:  # a URL that cannot be parsed may hold a password, and is not shown
            raise UserError(
                "the host or port of base_url cannot be read: give an endpoint such as 'http://localhost:8000/v1'"
            ) from None
        if parts.username or parts.password or parts.query:
            raise UserError(
                f"base_url for {parts.hostname!r} holds a password or a query, which would be written into logs: leave "
                f"it out, and put the key into the environment variable {self.key_variable}"
            )
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UserError(
                f"base_url {self.base_url!r} is not an endpoint: give one such as 'http://localhost:8000/v1'"
            )

    def _ask(self, prompts: Mapping[str, Content], keep: Keep) -> None:
        """Ask a few at a time. After a failure no more are sent, but answers to those under way are still kept."""
        failed = Event()
        with self._client() as client, ThreadPoolExecutor(self.concurrency) as pool:

            def ask(key: str, prompt: Content) -> None:
                if failed.is_set():
                    return
                try:
                    keep(key, self._answer(client, prompt))
                except UserError:
                    failed.set()
                    raise

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
        from openai import DefaultHttpxClient, OpenAI  # takes a second to import, and only some runs need it

        self._check_url()
        return OpenAI(
            http_client=DefaultHttpxClient(event_hooks={"response": [_give_errors_their_status]}),
            base_url=self.base_url,
            api_key=self._key or "none",
            max_retries=self.max_retries,
            timeout=self.timeout_s,
        )

    def _answer(self, client: "OpenAI", prompt: Content) -> Reply:
        """Ask once, with the client's own retries. The key is hidden from whatever is shown of the reply."""
        import openai

        where = f"endpoint {self.base_url!r}"
        again = f"then run the same command again: {len(self._answers.known)} answers are kept"
        try:
            completion: Any = client.chat.completions.create(**self._request(prompt))
            return self._read(completion.choices[0])
        except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
            return self._refused(error.status_code, error)
        except (openai.AuthenticationError, openai.PermissionDeniedError):
            given = "refuses the key in" if self._key else "needs a key, and there is none in"
            problem = f"{where} {given} the environment variable {self.key_variable}: set it, {again}"
        except openai.NotFoundError as error:
            problem = (
                f"{where} has no model {self.model!r} or is not such an endpoint ({self._reason(error)}): "
                "correct either"
            )
        except openai.APITimeoutError:
            problem = (
                f"{where} gave no answer within {self.timeout_s:g} s, asked {self.max_retries + 1} times: check the "
                f"server, or raise timeout_s, {again}"
            )
        except (openai.RateLimitError, openai.InternalServerError) as error:
            problem = (
                f"{where} keeps failing (status {error.status_code}, {self._reason(error)}; max_retries is "
                f"{self.max_retries}): check the server, or raise max_retries, {again}"
            )
        except openai.APIStatusError as error:
            if error.status_code == TOO_LARGE:
                return self._refused(TOO_LARGE, error)
            problem = (
                f"{where} refuses a request (status {error.status_code}, {self._reason(error)}): see what it says "
                f"about model {self.model!r}, {again}"
            )
        except openai.APIConnectionError as error:
            problem = (
                f"{where} cannot be reached ({self._reason(error.__cause__ or error)}): start the server, such as "
                f"`vllm serve {self.model}`, or correct base_url, {again}"
            )
        except (openai.APIError, ValueError, AttributeError, IndexError, TypeError) as error:
            problem = (
                f"{where} does not answer with a chat completion ({self._reason(error)}): is it OpenAI-compatible? "
                f"Correct base_url, {again}"
            )
        raise UserError(problem)

    def _read(self, choice: Any) -> Reply:
        """Return the answer if it is whole, otherwise the reason why it is not."""
        message, finish = choice.message, choice.finish_reason
        text = self._hidden(_text(message.content))
        if finish == "content_filter":
            return Reply(None, f"{FILTERED}: finish_reason content_filter")
        if finish == "length" and text.strip():
            return Reply(None, f"{CUT}: finish_reason length, max_tokens {self.parameters['max_tokens']}")
        if text.strip():
            return Reply(text)
        refusal = getattr(message, "refusal", None)
        if refusal:
            return Reply(None, f"{REFUSED}: {self._line(str(refusal))}")
        return Reply(None, f"{EMPTY}: finish_reason {finish}")

    def _refused(self, status: int, error: BaseException) -> Reply:
        return Reply(None, f"{REFUSED}: status {status}, {self._reason(error)}", lasts=True)

    @property
    def _name(self) -> str:
        return f"endpoint {self.base_url!r} with model {self.model!r}"

    def _reason(self, error: BaseException) -> str:
        response = getattr(error, "response", None)  # it says more than the client's own message
        text = response.text if response is not None else str(error)
        return self._line(text) or type(error).__name__

    def _line(self, text: str) -> str:
        return self._hidden(" ".join(text.split()))[:200]

    def _hidden(self, text: str) -> str:
        secret = self._key if len(self._key or "") >= SHORTEST_KEY else None
        return text.replace(secret, "[key]") if secret else text


def _text(content: Any) -> str:
    """Return the text of a message: its content, or the text parts of its content; other parts are thoughts."""
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        raise TypeError(f"an answer of {type(content).__name__}")
    parts = (part for part in content if isinstance(part, dict) and part.get("type") in ("text", "output_text", None))
    return "\n".join(text for part in parts if isinstance(text := part.get("text"), str))


def _give_errors_their_status(response: Any) -> None:
    """Give an error that comes with HTTP 200 its proper status, so that the client treats it like any other error."""
    if response.status_code != HTTPStatus.OK:
        return
    response.read()
    try:
        body = response.json()
        choices = body.get("choices") or [{}]
        error = body.get("error") or choices[0].get("error")
    except (ValueError, AttributeError, TypeError, IndexError, KeyError):
        return  # not a chat completion, which is noticed later
    if not error:
        return
    details = error if isinstance(error, dict) else {"message": str(error)}
    response.status_code = _status(details)
    wait = details.get("retry_after") or _WAIT.search(str(details.get("message")))
    if wait and "retry-after" not in response.headers:
        response.headers["retry-after"] = str(wait) if not isinstance(wait, re.Match) else wait[1]


def _status(error: Mapping[str, Any]) -> int:
    for field in ("code", "status", "type"):
        given = str(error.get(field, ""))
        if given.isdigit() and 400 <= int(given) <= 599:
            return int(given)
    words = f"{error.get('code')} {error.get('type')} {error.get('status')}".lower()
    return next((status for word, status in STATUSES.items() if word in words), 500)
