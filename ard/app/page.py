"""The explorer's pages and requests."""

import json
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Mount, Route

from ard.app.calls import record
from ard.app.clips import Clips, as_wav
from ard.app.guard import Gate
from ard.app.jobs import BusyError, Job, Jobs, Tell
from ard.app.listen import LONGEST_BYTES, LONGEST_S, hear, listen
from ard.app.steer import LONGEST_PROMPT, MOST_SETTINGS, MOST_TOKENS, answer, read_asked
from ard.app.subject import Subject
from ard.audiollm import only_hears
from ard.reports.concepts import read_concepts, shown_names
from ard.reports.sounds import waveform_path
from ard.reports.templates import templates
from ard.run import Run
from ard.study.page import AUDIO, Guarded, bad_request, http_error, read_content, read_object, unavailable
from ard.types import Clip, UserError

PAGES = {"/listen": "listen.html", "/steer": "steer.html"}
FILES = ("app.css", "nav.css", "app.js", "listen.js", "steer.js", "rate.js", "recorder.js")
KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".json": "application/json"}
IMAGES = {".png": "image/png", ".svg": "image/svg+xml", ".webp": "image/webp"}
REPORTED = KINDS | IMAGES | AUDIO
"""Kinds of files of the report that are served."""

LONGEST_BODY = 64 * 1024
"""Most bytes of a request that is no clip."""


def make_app(
    run: Run,
    jobs: Jobs[Subject],
    study: Starlette | str,
    *,
    hosts: Sequence[str],
    token: str | None = None,
) -> Starlette:
    """Return the application that serves a run.

    Args:
        run: the run.
        jobs: the queue in front of its model.
        study: the application of its rating study, or why there is none.
        hosts: host names to answer to; ``*`` for all.
        token: what opens the pages; None if nothing is wanted.
    """
    requests = Requests(run, jobs, study if isinstance(study, str) else None)
    routes: list[BaseRoute] = [Route(path, partial(_page, name)) for path, name in PAGES.items()]
    routes += [Route(f"/{name}", partial(_file, name)) for name in FILES]
    routes += [
        Route("/", requests.start),
        Route("/report.css", partial(_file, "report.css")),
        Route("/report/{path:path}", requests.report),
        Route("/api/run", requests.about),
        Route("/api/concepts", requests.concepts),
        Route("/api/clips", requests.clips),
        Route("/api/clip", requests.clip),
        Route("/api/clips/{split}/{id:path}", requests.sound),
        Route("/api/dropped/{dropped}", requests.sound),
        Route("/api/dropped", requests.drop, methods=["POST"]),
        Route("/api/listen", requests.listen, methods=["POST"]),
        Route("/api/steer", requests.steer, methods=["POST"]),
        Mount("/rate", routes=[Route("/", partial(_page, "rate.html"))])
        if isinstance(study, str)
        else Mount("/rate", study),
    ]
    return Starlette(
        routes=routes,
        middleware=[
            Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts)),
            Middleware(Guarded),
            Middleware(Gate, token=token),
        ],
        exception_handlers={BusyError: unavailable, UserError: bad_request, HTTPException: http_error},
    )


class Requests:
    """The requests of the pages."""

    def __init__(self, run: Run, jobs: Jobs[Subject], no_study: str | None) -> None:
        self.run, self.jobs, self.no_study, self.kept = run, jobs, no_study, Clips(run)
        self._report, self._overview = run.report.parent.resolve(), f"/report/{run.report.name}"

    def start(self, request: Request) -> Response:
        """Show the report first, once there is one."""
        return RedirectResponse(self._overview if self.run.report.is_file() else "/listen")

    def report(self, request: Request) -> Response:
        """Return a file of the report; a page gets the links to the other pages."""
        path = self._in_report(request.path_params["path"])
        if path is None:
            raise HTTPException(404, "there is no such file in the report, or it is still being written")
        if path.suffix != ".html":
            return FileResponse(path, media_type=REPORTED[path.suffix])
        of_concept = re.fullmatch(r"\d+-(\d+)", path.stem)
        page = path.read_text(encoding="utf-8")
        page = _with_links(page, self._overview, int(of_concept[1]) if of_concept else None)
        return Response(page, media_type="text/html")

    def about(self, request: Request) -> Response:
        """Return what the pages say of the run, the state of the model, and the limits; load the model."""
        run = self.run
        self.jobs.wake()
        tasks = run.facts.get("tasks") or []
        return JSONResponse(
            {
                "name": run.folder.resolve().name,
                "folder": str(run.folder),
                "model": Path(run.model).name if Path(run.model).is_absolute() else run.model,
                "layer": run.layer,
                "expansion": run.expansion,
                "state": self.jobs.state,
                "answers": not only_hears(run.model),
                "no_study": self.no_study,
                "prompts": list(dict.fromkeys(task["prompt"] for task in tasks if "prompt" in task)),
                "splits": self.kept.splits,
                "limits": {
                    "bytes": LONGEST_BYTES,
                    "seconds": LONGEST_S,
                    "settings": MOST_SETTINGS,
                    "tokens": MOST_TOKENS,
                    "prompt": LONGEST_PROMPT,
                },
            }
        )

    def concepts(self, request: Request) -> Response:
        """Return the named concepts, the most monosemantic first."""
        names = shown_names(self.run.own)
        rows = {row["feature"]: row for row in read_concepts(self.run.own)} if names else {}
        return JSONResponse(
            [
                {
                    "feature": feature,
                    "name": name,
                    "speaks": rows[feature].get("speaks", []),
                    "page": self._page(feature),
                }
                for feature, name in names.items()
            ]
        )

    def clips(self, request: Request) -> Response:
        """Return the clips of a split that a search finds."""
        found = self.kept.find(request.query_params.get("split", ""), request.query_params.get("search", ""))
        return JSONResponse([one._asdict() for one in found])

    def clip(self, request: Request) -> Response:
        """Return what is known of one clip, and its waveform."""
        place = dict(request.query_params)
        return JSONResponse(place | _described(self.kept.get(place).clip))

    def sound(self, request: Request) -> Response:
        """Return a clip as it is heard, as WAV, or the part of it that is asked for."""
        content = as_wav(self.kept.get(request.path_params).clip)
        return _part(content, request.headers.get("range", ""), "audio/wav")

    async def drop(self, request: Request) -> Response:
        """Take a sound file, and return its key, or why it cannot be heard."""
        if request.headers.get("content-type") != "application/octet-stream":
            raise HTTPException(415, "send the file as application/octet-stream")
        content = await read_content(request, LONGEST_BYTES, _longer_than(LONGEST_BYTES))

        def work() -> Response:
            clip = hear(content, request.query_params.get("name", ""))
            return JSONResponse({"dropped": self.kept.keep(clip), **_described(clip)})

        return await run_in_threadpool(work)

    async def listen(self, request: Request) -> Response:
        """Stream which concepts fire in a clip."""
        body = await _body(request)
        chosen = await run_in_threadpool(self.kept.get, body.get("clip"))

        def work(subject: Subject, tell: Tell) -> None:
            heard = listen(subject, chosen.clip)
            concepts = [{**fired._asdict(), "page": self._page(fired.feature)} for fired in heard.concepts]
            tell({"heard": {**heard._asdict(), "concepts": concepts, **_described(chosen.clip)}})

        return self._streamed(self.jobs.submit(work))

    async def steer(self, request: Request) -> Response:
        """Stream the answers under some settings, and then the calls that give them again."""
        body = await _body(request)
        asked = read_asked(body)
        chosen = await run_in_threadpool(self.kept.get, body.get("clip"))

        def work(subject: Subject, tell: Tell) -> None:
            answers = answer(subject, chosen.clip, asked, tell)
            tell({"answers": answers, "record": record(subject, chosen, asked, answers)})

        return self._streamed(self.jobs.submit(work))

    def _streamed(self, job: Job[Subject]) -> Response:
        """Send a job's events as they come, a line each; a browser that goes away stops the job."""

        async def lines() -> AsyncIterator[str]:
            try:
                async for event in job.events():
                    yield json.dumps(event) + "\n"
            finally:
                self.jobs.withdraw(job)

        return StreamingResponse(lines(), media_type="application/x-ndjson")

    def _in_report(self, name: str) -> Path | None:
        """Return a file of the report that is served; None if there is none of this name."""
        try:
            path = (self._report / name).resolve()
            is_served = path.is_relative_to(self._report) and path.suffix in REPORTED and path.is_file()
        except (OSError, ValueError):  # no file can have this name
            return None
        return path if is_served else None

    def _page(self, feature: int) -> str:
        """Return the address of a concept's page in the report."""
        page = f"concepts/{self.run.layer}-{feature}.html"
        return f"/report/{page}" if (self._report / page).is_file() else f"{self._overview}#concepts"


def _part(content: bytes, asked: str, kind: str) -> Response:
    """Return what a header ``Range`` asks for; all of it where that is no single range from a first byte.

    A browser seeks only in a sound of which it can have parts (RFC 9110, 14).
    """
    size, headers = len(content), {"Accept-Ranges": "bytes"}
    span = re.fullmatch(r"bytes=(\d{1,15})-(\d{0,15})", asked)
    if span is None or (span[2] and int(span[2]) < int(span[1])):
        return Response(content, media_type=kind, headers=headers)
    first, end = int(span[1]), min(int(span[2] or size) + 1, size)
    if first >= size:
        return Response(status_code=416, headers=headers | {"Content-Range": f"bytes */{size}"})
    headers["Content-Range"] = f"bytes {first}-{end - 1}/{size}"
    return Response(content[first:end], 206, headers, kind)


def _described(clip: Clip) -> dict[str, Any]:
    wave = waveform_path(clip.waveform)
    return {"id": clip.id, "duration_s": clip.duration_s, "caption": clip.caption, "note": clip.note, "wave": wave}


def _with_links(page: str, here: str, feature: int | None = None) -> str:
    """Put the links to all pages on top of one; from a concept's, one leads to where it is steered."""
    head, body, rest = page.partition("<body>")
    if not body:
        return page
    links = files("ard.app").joinpath("template", "nav.html").read_text(encoding="utf-8")
    links = links.replace(f'href="{here}"', f'href="{here}" aria-current="page"')
    if feature is not None:
        links = links.replace('"/steer">Steer', f'"/steer?feature={feature}">Steer this concept')
    return head.replace("</head>", '<link rel="stylesheet" href="/nav.css">\n</head>', 1) + body + "\n" + links + rest


async def _body(request: Request) -> Mapping[str, Any]:
    return await read_object(request, LONGEST_BODY, _longer_than(LONGEST_BODY))


def _longer_than(most: int) -> str:
    return f"this is longer than {most / 2**20:g} MiB"


async def _page(name: str, request: Request) -> Response:
    page = templates("ard.app").get_template(name).render()
    return Response(_with_links(page, request.url.path), media_type="text/html")


async def _file(name: str, request: Request) -> Response:
    package = "ard.reports" if name == "report.css" else "ard.app"
    content = files(package).joinpath("template", name).read_bytes()
    return Response(content, media_type=KINDS[Path(name).suffix])
