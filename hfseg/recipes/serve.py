"""`hfseg report --serve`: a run's page on this machine alone, with curves that follow a run under way."""

import json
import sys
import webbrowser
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from hfseg.errors import CheckpointError
from hfseg.recipes.ports import HOST, port_told
from hfseg.viz import LivePage

PORT = 8321
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "frame-ancestors 'none'",  # the rest stands in the page
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class LocalServer(ThreadingHTTPServer):
    """Answers two addresses, the page and what has changed in it, to browsers of this machine; serves no files."""

    daemon_threads = True

    def __init__(self, page: LivePage, port: int) -> None:
        self.page = page
        super().__init__((HOST, port), _Handler)

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://{HOST}:{self.server_port}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a browser that went away before it had its answer."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """Knows addresses, not paths: what is asked for never becomes the name of a file."""

    server: LocalServer
    timeout = 30  # of a connection that a browser opens and does not use
    server_version = "hfseg"
    sys_version = ""

    def do_GET(self) -> None:
        """Answer `/` and `/pieces.json?since=STAMP`."""
        address = urlsplit(self.path)
        if not self._asks_for_this_machine():
            self._answer(HTTPStatus.FORBIDDEN, "this server answers to its own name alone")
        elif address.path == "/":
            self._answer_with(self.server.page.html, "text/html")
        elif address.path == "/pieces.json":
            since = parse_qs(address.query).get("since", [""])[0]
            self._answer_with(lambda: self._changes(since), "application/json")
        else:
            self._answer(HTTPStatus.NOT_FOUND, "there is only the page")

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 (the name is the base class's)
        """Say nothing of every request: the terminal belongs to the person."""

    def _asks_for_this_machine(self) -> bool:
        """Refuse other names that lead to this address: a page of theirs could read ours (DNS rebinding)."""
        port = self.server.server_port
        return self.headers.get("Host", "") in {f"{HOST}:{port}", f"localhost:{port}"}

    def _changes(self, since: str) -> str | None:
        changes = self.server.page.changes(since)
        return None if changes is None else json.dumps(changes)

    def _answer_with(self, write: Callable[[], str | None], kind: str) -> None:
        try:
            text = write()
        except CheckpointError as error:  # a file that is being written, or was taken away
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, error.message)
            return
        if text is None:
            self._answer(HTTPStatus.NO_CONTENT, "")
        else:
            self._answer(HTTPStatus.OK, text, kind)

    def _answer(self, status: HTTPStatus, text: str, kind: str = "text/plain") -> None:
        body = text.encode()
        self.send_response(status)
        for name, value in HEADERS.items():
            self.send_header(name, value)
        if status is not HTTPStatus.NO_CONTENT:
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def open_server(folder: Path, port: int = PORT) -> LocalServer:
    """Bind a server to 127.0.0.1, at any free port where `port` is 0; it answers once `serve_forever` runs.

    Raises:
        CheckpointError: the folder is no run.
        ConfigError: the port cannot be had.
    """
    page = LivePage(folder)
    with port_told(port):
        return LocalServer(page, port)


def run(folder: Path, *, port: int = PORT, browser: bool = True, progress: Callable[[str], None]) -> None:
    """Serve the page of the run in `folder` until Ctrl-C, and write nothing; `progress` is told where it is.

    Raises:
        CheckpointError: the folder is no run.
        ConfigError: the port cannot be had.
    """
    with open_server(folder, port) as server:
        try:
            progress(f"{server.url} shows `{folder}` to this machine; Ctrl-C ends it")
            if browser:
                webbrowser.open(server.url)
            server.serve_forever()
        except KeyboardInterrupt:
            progress("the page is no longer served")
