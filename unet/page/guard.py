"""Which requests are accepted, and the headers of every response.

A browser sends requests to this machine on behalf of any website that its user visits. A website must neither use the
page nor read from it: not by a form or a script (``Origin``, ``Sec-Fetch-Site``), and not under a name of its own that
resolves to this machine (DNS rebinding; ``Host``).
"""

import re
from collections.abc import Collection

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    # The page's own scripts and styles, pictures of the page or embedded in the response, and nothing else.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Connection": "close",  # one request for each connection, so that none can be hidden in another
}


class Guard:
    """ASGI middleware that refuses requests for other hosts or from other sites.

    Args:
        app: The application.
        hosts: Hosts that requests may name, without port, see :func:`unet.page.allowed_hosts`.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str]):
        self.app = app
        self.hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        respond = self._refusal(scope) or self.app
        await respond(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope) -> JSONResponse | None:
        """The response to a request that is refused; ``None`` for one that is accepted."""
        headers = Headers(scope=scope)
        host = headers.get("host", "").lower()
        if re.sub(r":\d*$", "", host) not in self.hosts:
            message = "The page is not served under this host name. Its owner can add names with --allow-host."
            return JSONResponse({"message": message}, 421)
        own_origins = {f"http://{host}", f"https://{host}"}
        followed_link = scope["method"] == "GET" and headers.get("sec-fetch-dest") == "document"
        if not own_origins.issuperset(headers.getlist("origin")) or not (
            headers.get("sec-fetch-site", "none") in ("same-origin", "none") or followed_link
        ):
            return JSONResponse({"message": "Requests from other websites are refused."}, 403)
        return None
