# SPDX-License-Identifier: Apache-2.0
"""The server: one page, frames, the cameras and photos of the scene, statistics, pause and stop.

On this machine alone unless told otherwise. Where it is opened to others every request needs a token, which the
printed address holds; a page elsewhere can neither ask (the name of the host is checked) nor command (a header is).
"""

from __future__ import annotations

import hmac
import ipaddress
import json
import re
import secrets
import threading
import time
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from http.cookies import CookieError, SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from ..errors import UserError
from .studio import Studio, wish_of

PAGE = Path(__file__).with_name("page.html")
HOST, PORT = "127.0.0.1", 8765
PORTS = 20  # that are tried where the first is taken
BODY = 1000  # bytes of a command at most
COOKIE = "gsplat_viewer"


class Server:
    """Serves a studio until `close`.

    address: HOST, HOST:PORT or :PORT. scene: what the page is told once, as JSON. state: its statistics. photo:
    a JPEG by the number of a camera, or None. UserError where the address cannot be had.
    """

    def __init__(
        self,
        studio: Studio,
        address: str,
        scene: Callable[[], dict[str, Any]],
        state: Callable[[], dict[str, Any]],
        photo: Callable[[int], bytes | None] = lambda index: None,
    ) -> None:
        self.studio, self.scene, self.state, self.photo = studio, scene, state, photo
        host, port = parse_address(address)
        self.local = is_local(host)
        self.token = None if self.local else secrets.token_urlsafe(16)
        self.http = _bound(host, port, partial(_Handler, self))
        self.http.daemon_threads = True
        self.port = self.http.server_address[1]
        shown = f"[{host}]" if ":" in host else host
        self.url = f"http://{shown}:{self.port}/" + (f"?token={self.token}" if self.token else "")
        self.thread = threading.Thread(
            target=self.http.serve_forever, args=(0.1,), name="viewer", daemon=True
        )
        self.thread.start()

    def __str__(self) -> str:
        who = (
            "this machine only"
            if self.local
            else "whoever has this address; others reach the host by its own name"
        )
        return f"viewer: {self.url} ({who})"

    def close(self) -> None:
        """Sends everybody away."""
        self.studio.close()
        self.http.shutdown()
        self.http.server_close()
        self.thread.join(5)


def parse_address(address: str) -> tuple[str, int]:
    """(host, port) of HOST, HOST:PORT, :PORT or [IPV6]:PORT; UserError otherwise."""
    parts = urlsplit(f"//{address}")
    try:
        port = parts.port
    except ValueError:
        port = -1
    if port == -1 and not parts.path and (number := re.search(r":(\d+)$", address)):
        raise UserError(f"the viewer's port must be from 0 to 65535, got {number[1]}")
    if port == -1 or parts.path or (address and parts.hostname is None and port is None):
        raise UserError(f"the viewer's address must be HOST, HOST:PORT or :PORT, got {address!r}")
    return parts.hostname or HOST, PORT if port is None else port


def is_local(host: str) -> bool:
    """Whether only this machine can reach the host."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_address(address: str) -> None:
    """UserError where nothing can listen there; before a run has a folder."""
    _bound(*parse_address(address), BaseHTTPRequestHandler).server_close()


def _bound(host: str, port: int, handler: Callable[..., Any]) -> ThreadingHTTPServer:
    """A server on the port, or on one of the next where it is the usual one and taken."""
    problem: OSError | None = None
    for candidate in range(port, port + (PORTS if port == PORT else 1)):
        try:
            return _Http((host, candidate), handler)
        except OSError as error:
            problem = error
    assert problem is not None
    raise UserError(f"the viewer cannot listen on {host}:{port}: {problem.strerror}; give another address")


class _Http(ThreadingHTTPServer):
    allow_reuse_address = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that has gone away is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "gsplat_train"
    sys_version = ""
    timeout = 120

    def __init__(self, owner: Server, *arguments: Any) -> None:
        self.owner = owner
        super().__init__(*arguments)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Says nothing: the terminal is the training's."""

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = dict(parse_qsl(parts.query))
        if not self._may(query):
            return
        owner = self.owner
        if parts.path == "/":
            self._send(PAGE.read_bytes(), "text/html; charset=utf-8", query)
            return
        owner.studio.seen = time.monotonic()
        if parts.path == "/scene":
            self._json(owner.scene())
        elif parts.path == "/state":
            self._json(owner.state())
        elif parts.path == "/frame":
            try:
                wish = wish_of(query)
            except UserError as error:
                self._refuse(HTTPStatus.BAD_REQUEST, str(error))
                return
            frame = owner.studio.order(wish)
            if frame is None:
                self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, "nothing is rendered now")
            else:
                self._send(frame, "image/jpeg")
        elif parts.path == "/photo" and query.get("index", "").isdigit():
            photo = owner.photo(int(query["index"]))
            if photo is None:
                self._refuse(HTTPStatus.NOT_FOUND, "no photo")
            else:
                self._send(photo, "image/jpeg")
        else:
            self._refuse(HTTPStatus.NOT_FOUND, "nothing here")

    def do_POST(self) -> None:
        parts = urlsplit(self.path)
        if not self._may(dict(parse_qsl(parts.query))):
            return
        if self.headers.get("X-Viewer") != "1":  # no foreign page can set it without asking first
            self._refuse(HTTPStatus.FORBIDDEN, "only the viewer's own page may do that")
            return
        try:
            body = self.rfile.read(min(int(self.headers.get("Content-Length", "0")), BODY))
            self.owner.studio.control(json.loads(body)["action"])
        except (ValueError, KeyError, TypeError, UserError) as error:
            self._refuse(HTTPStatus.BAD_REQUEST, f"no such command: {error}")
            return
        self._json(self.owner.state())

    def _may(self, query: dict[str, str]) -> bool:
        """Whether who asks may; otherwise he is told."""
        owner = self.owner
        if owner.token is None:
            host = urlsplit(f"//{self.headers.get('Host', '')}").hostname or ""
            if is_local(host):
                return True
            self._refuse(HTTPStatus.FORBIDDEN, "ask by 127.0.0.1 or localhost")
            return False
        presented = query.get("token") or self._cookie()
        if hmac.compare_digest(presented.encode(), owner.token.encode()):
            return True
        self._refuse(HTTPStatus.FORBIDDEN, "the address needs the token that the program has printed")
        return False

    def _cookie(self) -> str:
        try:
            found = SimpleCookie(self.headers.get("Cookie", "")).get(f"{COOKIE}_{self.owner.port}")
        except CookieError:
            return ""
        return found.value if found else ""

    def _json(self, content: dict[str, Any]) -> None:
        self._send(json.dumps(content).encode(), "application/json")

    def _refuse(self, status: HTTPStatus, why: str) -> None:
        self.close_connection = True
        self._send(f"{why}\n".encode(), "text/plain; charset=utf-8", status=status)

    def _send(
        self, body: bytes, kind: str, query: dict[str, str] | None = None, status: HTTPStatus = HTTPStatus.OK
    ) -> None:
        try:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.send_header("X-Content-Type-Options", "nosniff")
            if kind.startswith("text/html"):
                self.send_header(
                    "Content-Security-Policy",
                    "default-src 'self'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
                    "img-src 'self' blob:; frame-ancestors 'none'",
                )
                self.send_header("Referrer-Policy", "no-referrer")
            if self.owner.token and query and query.get("token"):
                name = f"{COOKIE}_{self.owner.port}"
                self.send_header(
                    "Set-Cookie", f"{name}={self.owner.token}; HttpOnly; SameSite=Strict; Path=/"
                )
            self.end_headers()
            self.wfile.write(body)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True
