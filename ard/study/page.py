"""The rating study's pages and requests.

A rater's browser never gets the method or the feature, and gets a concept's name only once its label is saved.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ard.reports.sounds import Sound
from ard.reports.templates import templates
from ard.study import Answer, Concept, RaterEntry, Store, StoreError
from ard.types import UserError

FILES = {
    "/report.css": ("ard.reports", "report.css", "text/css"),
    "/study.css": ("ard.study", "study.css", "text/css"),
    "/study.js": ("ard.study", "study.js", "text/javascript"),
}
AUDIO = {".flac": "audio/flac", ".wav": "audio/wav", ".ogg": "audio/ogg", ".mp3": "audio/mpeg"}
LONGEST_BODY = 4096
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def make_app(store: Store, sounds: Mapping[str, Sound], audio: Path, *, hosts: Sequence[str]) -> Starlette:
    """Return the application that serves a study.

    Args:
        store: the study.
        sounds: the audio of all its clips, files in ``audio``.
        audio: the folder of these files.
        hosts: host names to answer to; a request for another one, such as from a page elsewhere, is refused.
    """
    requests = Requests(store, sounds, audio)
    rater = "/api/raters/{rater}"
    concept = rater + "/concepts/{place:int}"
    routes = [Route(path, partial(_file, path)) for path in FILES]
    routes += [
        Route("/", _page),
        Route("/api/raters", requests.join, methods=["POST"]),
        Route(rater, requests.progress),
        Route(concept, requests.concept),
        Route(concept + "/clips/{clip:int}", requests.clip),
        Route(concept + "/label", requests.label, methods=["POST"]),
        Route(concept + "/rating", requests.rating, methods=["POST"]),
    ]
    return Starlette(
        routes=routes,
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts)), Middleware(Guarded)],
        exception_handlers={StoreError: unavailable, UserError: bad_request, HTTPException: http_error},
    )


class Guarded:
    """Adds headers: a browser runs what is the page's own alone, shows it to no other site, and stores nothing."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and add the headers to its response."""

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await self.app(scope, receive, answer)


class Requests:
    """The requests of the page; places count from 1, in the rater's own order."""

    def __init__(self, store: Store, sounds: Mapping[str, Sound], audio: Path) -> None:
        self.store, self.sounds, self.audio = store, sounds, audio

    async def join(self, request: Request) -> Response:
        """Register a rater; a name that is already in use is only resumed if ``resume`` says so."""
        body = await _body(request)
        name = " ".join(str(body.get("name", "")).split())
        return await run_in_threadpool(self._join, name, bool(body.get("resume")))

    def progress(self, request: Request) -> Response:
        """Return how far a rater has got."""
        return JSONResponse(self._progress(self._rater(request)))

    def concept(self, request: Request) -> Response:
        """Return a concept's clips, and what the rater may see of its name and answers."""
        rater, concept = self._rater_and_concept(request)
        mine = {answer.concept: answer for answer in self.store.answers(rater)}
        waves = [self.sounds[clip].path for clip in concept.clips]
        return JSONResponse({"waves": waves, **_visible(concept, mine.get(concept.key))})

    def clip(self, request: Request) -> Response:
        """Return the sound of a clip."""
        _, concept = self._rater_and_concept(request)
        number = request.path_params["clip"]
        if not 1 <= number <= len(concept.clips):
            raise HTTPException(404, "there is no such clip")
        path = self.audio / self.sounds[concept.clips[number - 1]].file
        return FileResponse(path, media_type=AUDIO[path.suffix])

    async def label(self, request: Request) -> Response:
        """Save a label and return the name; the first label stays."""
        return await self._keep(request, self.store.label, "label")

    async def rating(self, request: Request) -> Response:
        """Save a rating; the last one counts."""
        return await self._keep(request, self.store.rate, "rating")

    async def _keep(self, request: Request, keep: Callable[[RaterEntry, Concept, Any], Answer], what: str) -> Response:
        value = (await _body(request)).get(what)

        def work() -> Response:
            rater, concept = self._rater_and_concept(request)
            answer = keep(rater, concept, value)
            return JSONResponse({**_visible(concept, answer), **self._progress(rater)})

        return await run_in_threadpool(work)

    def _join(self, name: str, resume: bool) -> Response:
        raters = [r for r in self.store.raters() if r.kind == "person" and r.name.casefold() == name.casefold()]
        if raters and not resume:
            progress = self._progress(raters[0])
            return JSONResponse(
                {"error": "this name is taken", "done": progress["done"], "total": progress["total"]}, 409
            )
        return JSONResponse(self._progress(raters[0] if raters else self.store.join(name)))

    def _progress(self, rater: RaterEntry) -> dict[str, Any]:
        rated = {answer.concept for answer in self.store.answers(rater) if answer.rating is not None}
        order = self.store.order(rater)
        places = [place for place, concept in enumerate(order, 1) if concept.key not in rated]
        return {"rater": rater.id, "person": rater.name, "done": len(rated), "total": len(order), "open": places}

    def _rater(self, request: Request) -> RaterEntry:
        rater_id = request.path_params["rater"]
        rater = next((r for r in self.store.raters() if r.id == rater_id and r.kind == "person"), None)
        if rater is None:
            raise HTTPException(404, "this study does not have this rater: start with your name")
        return rater

    def _rater_and_concept(self, request: Request) -> tuple[RaterEntry, Concept]:
        rater, place = self._rater(request), request.path_params["place"]
        order = self.store.order(rater)
        if not 1 <= place <= len(order):
            raise HTTPException(404, f"there is no concept {place}: the study has {len(order)}")
        return rater, order[place - 1]


def _visible(concept: Concept, answer: Answer | None) -> dict[str, Any]:
    """Return what a rater may see: the name is revealed only to raters who have already labelled the concept."""
    if answer is None or answer.label is None:
        return {"label": None, "name": None, "rating": None}
    return {"label": answer.label, "name": concept.name, "rating": answer.rating}


async def _body(request: Request) -> dict[str, Any]:
    return await read_object(request, LONGEST_BODY, "this is too long")


async def read_object(request: Request, most: int, refusal: str) -> dict[str, Any]:
    """Read a JSON object, at most so many bytes; refuse what another site's form could send."""
    if request.headers.get("content-type", "").partition(";")[0] != "application/json":
        raise HTTPException(415, "send JSON")
    try:
        content = json.loads(await read_content(request, most, refusal))
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise HTTPException(400, "this is not a JSON object")
    return content


async def read_content(request: Request, most: int, refusal: str) -> bytes:
    """Read what was sent, at most so many bytes; ``refusal`` is the line for more."""
    content = b""
    async for part in request.stream():
        content += part
        if len(content) > most:
            raise HTTPException(413, refusal)
    return content


async def _page(request: Request) -> Response:
    return Response(templates("ard.study").get_template("study.html").render(), media_type="text/html")


async def _file(path: str, request: Request) -> Response:
    package, name, media_type = FILES[path]
    return Response(files(package).joinpath("template", name).read_bytes(), media_type=media_type)


async def bad_request(request: Request, error: Exception) -> Response:
    """Say in a line what was wrong with a request."""
    return JSONResponse({"error": str(error)}, 400)


async def unavailable(request: Request, error: Exception) -> Response:
    """Say in a line why a request cannot be answered now."""
    return JSONResponse({"error": str(error)}, 503)


async def http_error(request: Request, error: Exception) -> Response:
    """Say in a line why a request was refused."""
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code)
