"""Who may use the explorer: a token where other machines can reach it, and no page of another site anywhere."""

import hashlib
from hmac import compare_digest
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

RATE = "/rate/"
"""Where the rating study is; a rater's token opens nothing else, since the report would reveal the names."""


def raters_token(token: str) -> str:
    """Return the token for raters that goes with a token; neither tells the other, unless the token can be guessed."""
    return hashlib.sha256(f"raters of {token}".encode()).hexdigest()[:24]


class Gate:
    """Refuses requests without the token, and whatever pages of other sites make a browser send, but for links.

    Another site may so lead to a page, and neither change anything nor read what is here, as by naming a file of the
    report as its own script. A token comes once as ``?token=`` in an address, and then as a cookie, which goes with a
    link from a mail or another site too.

    Args:
        app: the application behind it.
        token: the token; None lets everybody in.
    """

    def __init__(self, app: ASGIApp, token: str | None) -> None:
        self.app, self.token = app, token
        self._raters = None if token is None else raters_token(token)
        self._cookie = f"ard-{hashlib.sha256((token or '').encode()).hexdigest()[:8]}"  # two servers have two cookies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        app = self.app
        if scope["type"] == "http":
            app = self._refusal(scope) or app
        await app(scope, receive, send)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        origin, site = headers.get("origin"), headers.get("sec-fetch-site", "same-origin")
        foreign = origin is not None and urlsplit(origin).netloc != headers.get("host")
        is_link = scope["method"] in ("GET", "HEAD") and headers.get("sec-fetch-dest") == "document"
        if not is_link and (foreign or site not in ("same-origin", "none")):
            return JSONResponse({"error": "this request came from a page of another site"}, 403)
        if self.token is None:
            return None
        query = dict(parse_qsl(scope["query_string"].decode("latin-1")))
        given = query.pop("token", None)
        if given is not None and self._opens(given, scope["path"]):
            rest = urlencode(query)
            answer = RedirectResponse(quote(scope["path"]) + (f"?{rest}" if rest else ""), 303)
            answer.set_cookie(self._cookie, given, httponly=True, samesite="lax")
            return answer
        if self._opens(self._kept(headers), scope["path"]):
            return None
        line = "this page wants its token: open the whole address that `ard app` printed"
        return JSONResponse({"error": line}, 403)

    def _opens(self, given: str | None, path: str) -> bool:
        if given is None or self.token is None or self._raters is None:
            return False
        whole = compare_digest(given.encode(), self.token.encode())
        raters = compare_digest(given.encode(), self._raters.encode())
        return whole or (raters and path.startswith(RATE))

    def _kept(self, headers: Headers) -> str | None:
        try:
            kept = SimpleCookie(headers.get("cookie", "")).get(self._cookie)
        except CookieError:
            return None
        return None if kept is None else kept.value
