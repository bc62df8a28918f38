"""The page as an ASGI application: the page itself, and an endpoint that segments the photograph in a request's body.

A request names no file and no path, and nothing is written to disk: the photograph is in memory until it is segmented.
"""

import asyncio
import contextlib
import json
import sys
import threading
import traceback
from collections.abc import AsyncGenerator, Collection, Sequence
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from unet.console import escaped
from unet.errors import InputError
from unet.inference import MODES
from unet.page.guard import Guard
from unet.page.hosts import LOCAL
from unet.page.photograph import describe, render, segment

PLACES = 8
"""Photographs held at a time: one is being segmented, the others are waiting or being sent. This bounds memory."""
UPLOAD_SECONDS = 60
"""Seconds within which a photograph must arrive."""


def build(predictors, max_upload_mb: int = 20, hosts: Collection[str] = LOCAL) -> Guard:
    """Build the page, an ASGI application.

    Args:
        predictors: Networks loaded with :func:`unet.load`; shown side by side.
        max_upload_mb: Larger photographs are rejected, MiB.
        hosts: Hosts that requests may name, see :func:`unet.page.allowed_hosts`.
    """
    networks = [describe(predictor) for predictor in predictors]
    app = Starlette(
        routes=[
            _file("/", render("page.html.j2", max_upload_mb=max_upload_mb, networks=networks), "text/html"),
            _file("/page.css", _template("page.css"), "text/css"),
            _file("/page.js", _template("page.js"), "text/javascript"),
            Route("/segment", Endpoint(predictors, max_upload_mb), methods=["POST"]),
        ],
        exception_handlers={HTTPException: _refuse},
    )
    app.router.redirect_slashes = False
    return Guard(app, hosts)


def _template(name: str) -> str:
    return (Path(__file__).parent / "templates" / name).read_text(encoding="utf-8")


def _file(path: str, content: str, media_type: str) -> Route:
    """A route to fixed content."""

    async def show(request: Request) -> Response:
        return Response(content, media_type=media_type)

    return Route(path, show)


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"message": error.detail}, error.status_code, error.headers)


class Endpoint:
    """Segments the photograph in the body of a request, one photograph at a time, in the order of arrival.

    The response has one JSON object on each line: ``{"progress": text, "share": 0 to 1}`` any number of times, then
    ``{"html": result}`` or ``{"message": text}``. For a request that is refused, or whose body does not arrive, it is
    ``{"message": text}`` with an HTTP status.
    """

    def __init__(self, predictors: Sequence, max_upload_mb: int):
        self._predictors = predictors
        self._max_upload_mb = max_upload_mb
        self._places = PLACES
        self._queue: list[threading.Event] = []  # of photographs; each is set when its client has gone

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        mode, flip = request.query_params.get("mode"), request.query_params.get("flip", "false")
        if mode not in (*MODES, None) or flip not in ("false", "true"):
            raise HTTPException(400, f"Expected mode={'|'.join(MODES)} and flip=false|true.")
        if self._places <= 0:
            await self._receive(request, keep=False)  # or the browser would not read the response
            message = f"The server is busy: {PLACES} photographs are waiting already. Try again in a moment."
            raise HTTPException(503, message, {"Retry-After": "10"})
        self._places -= 1
        try:
            photograph = await self._receive(request)
            headers = [(b"content-type", b"application/x-ndjson")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            async with contextlib.aclosing(self._segment(request, photograph, mode, flip == "true")) as events:
                async for event in events:
                    line = json.dumps(event).encode() + b"\n"
                    await send({"type": "http.response.body", "body": line, "more_body": True})
            await send({"type": "http.response.body", "body": b""})  # returns when the client has received all
        except ClientDisconnect:
            pass
        finally:
            self._places += 1

    async def _receive(self, request: Request, keep: bool = True) -> bytes:
        """The body of a request; nothing if it need not be kept.

        Raises:
            HTTPException: It is too large or takes too long.
        """
        most = self._max_upload_mb * 2**20
        size, body = 0, bytearray()
        too_large = HTTPException(
            413, f"The photograph is larger than {self._max_upload_mb} MB, the limit; scale it down."
        )
        if int(request.headers.get("content-length", 0)) > most:
            raise too_large
        try:
            async with asyncio.timeout(UPLOAD_SECONDS):
                async for chunk in request.stream():
                    size += len(chunk)
                    if size > most:
                        raise too_large
                    if keep:
                        body += chunk
        except TimeoutError:
            raise HTTPException(408, f"The photograph did not arrive within {UPLOAD_SECONDS} s.") from None
        return bytes(body)

    async def _segment(self, request: Request, photograph: bytes, mode: str | None, flip: bool) -> AsyncGenerator[dict]:
        """Wait for the photographs before this one, and segment it; stop when the client has gone."""
        loop, events, gone = asyncio.get_running_loop(), asyncio.Queue[dict](), threading.Event()

        def put(**event) -> None:
            loop.call_soon_threadsafe(events.put_nowait, event)

        def progress(share: float, name: str) -> None:
            if gone.is_set():
                raise ClientDisconnect
            put(progress=f"Segmenting with {name}", share=share)

        def work() -> None:
            try:
                put(html=segment(self._predictors, photograph, mode, flip, progress))
            except InputError as error:
                put(message=str(error))
            except ClientDisconnect:
                pass
            except Exception:
                print(escaped(traceback.format_exc(), keep="\n"), file=sys.stderr)
                put(message="The photograph could not be segmented; the reason is in the server's output.")

        self._queue.append(gone)
        job, shown = None, 0
        try:
            while ahead := self._queue.index(gone):
                if ahead != shown:
                    shown = ahead
                    yield {"progress": f"Waiting for {ahead} other photograph{'s' if ahead > 1 else ''}"}
                await asyncio.sleep(0.1)
                if await request.is_disconnected():
                    return
            yield {"progress": "Reading the photograph"}
            job = loop.run_in_executor(None, work)
            job.add_done_callback(lambda _: self._queue.remove(gone))
            while not await request.is_disconnected():
                try:
                    event = await asyncio.wait_for(events.get(), 0.2)
                except TimeoutError:
                    continue
                yield event
                if "progress" not in event:
                    return
        finally:
            gone.set()
            if job is None:
                self._queue.remove(gone)
