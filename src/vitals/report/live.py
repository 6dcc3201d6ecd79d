"""Pages that follow what they tell of: served to browsers on this machine alone, and remade as files change.
Importable without matplotlib, which takes most of a second."""

import hashlib
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import ThreadingTCPServer
from typing import Any
from urllib.parse import unquote, urlsplit

from vitals.errors import UserError, one_line

LOOPBACK = "127.0.0.1"
NAMES = re.compile(r"(127\.0\.0\.1|localhost)(:\d+)?")
"""By which a browser may call this machine; a site that gives its own name this address is refused."""
PATIENCE = 1.0
"""Seconds in which files are looked at no more than once."""
SHARE = 0.2
"""Of one core's time that looking at files and making pages takes at most."""


@dataclass(frozen=True)
class Live:
    """What a page that follows something says of it."""

    state: str
    """In words, such as `Running: epoch 1.2, step 57 of 190.`"""
    running: bool
    written: str
    """When the newest of the files was written, in ISO 8601; empty where there is none."""


class LivePage:
    """A page that is made, as HTML, when somebody asks for it, and again only when what it is made from has
    changed: `seen` gives a value that differs wherever it may, cheap to come by."""

    def __init__(self, seen: Callable[[], object], make: Callable[[], str]) -> None:
        self.seen = seen
        self.make = make
        self._made_from: object = None
        self._page = b""
        self._next = 0.0

    def current(self) -> tuple[str, bytes]:
        """A tag that tells the page from earlier ones, and the page. Where it cannot be made, whatever `make`
        raises; the next call tries again."""
        if not self._page or time.monotonic() >= self._next:
            began = time.thread_time()
            try:
                if (seen := self.seen()) != self._made_from or not self._page:
                    self._page = self.make().encode()
                    self._made_from = seen
            finally:
                took = time.thread_time() - began
                self._next = time.monotonic() + max(PATIENCE, took / SHARE)
        return hashlib.blake2s(self._page, digest_size=8).hexdigest(), self._page


class Server(ThreadingTCPServer):
    """Serves pages, and nothing else, on a `port` of this machine, of which 0 takes a free one; `find` gives
    the page at a path such as `/`, or None. `UserError` if the port is taken, or may not be used."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, find: Callable[[str], LivePage | None], port: int = 0) -> None:
        self.find = find
        self.making = threading.Lock()
        """Held while a page is made: matplotlib makes one at a time."""
        try:
            super().__init__((LOOPBACK, port), _Answer)
        except OSError as error:
            reason = error.strerror or str(error)
            raise UserError(
                f"port={port} cannot be used ({reason}): name another one, or leave port out for a free one."
            ) from None

    @property
    def address(self) -> str:
        return f"http://{LOOPBACK}:{self.server_address[1]}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), OSError):  # a browser that went away
            super().handle_error(request, client_address)


class _Answer(BaseHTTPRequestHandler):
    server: Server
    timeout = 30

    def do_GET(self) -> None:
        if not NAMES.fullmatch(self.headers.get("Host", "")):
            self._send(HTTPStatus.FORBIDDEN, b"This page is for this machine alone.")
            return
        try:
            with self.server.making:
                page = self.server.find(unquote(urlsplit(self.path).path))
                tag, content = page.current() if page else ("", b"")
        except Exception as error:  # a folder that is gone, or half written: the next time may go well
            kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
            self._send(HTTPStatus.SERVICE_UNAVAILABLE, f"{kind}{one_line(error)}".encode())
            return
        if page is None:
            self._send(HTTPStatus.NOT_FOUND, b"There is no such page.")
            return
        known = self.headers.get("If-None-Match") == f'"{tag}"'
        status = HTTPStatus.NOT_MODIFIED if known else HTTPStatus.OK
        self._send(status, b"" if known else content, "text/html", ETag=f'"{tag}"')

    def _send(self, status: HTTPStatus, content: bytes, kind: str = "text/plain", **headers: str) -> None:
        self.send_response(status)
        headers |= {"Content-Type": f"{kind}; charset=utf-8", "Content-Length": str(len(content))}
        headers |= {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing on the terminal."""


def stamps(files: Iterable[Path]) -> dict[Path, tuple[int, int]]:
    """Of each of the files that is there, its size in bytes and the time it was written at in nanoseconds."""
    found = {}
    for file in files:
        with suppress(OSError):
            facts = file.stat()
            found[file] = (facts.st_size, facts.st_mtime_ns)
    return found


def newest(written: Mapping[Path, tuple[int, int]]) -> str:
    """The latest of the times in `stamps`, in ISO 8601; empty where there is none."""
    latest = max((nanoseconds for _, nanoseconds in written.values()), default=None)
    return "" if latest is None else datetime.fromtimestamp(latest / 1e9, UTC).isoformat(timespec="seconds")
