"""A run's page on this machine, updating while the run goes on.

It answers on 127.0.0.1 alone, to GET and HEAD, at a few fixed addresses: the page, what is seen of the run,
and the report that the run leaves. Requests for another host name are refused, so that no site can read it.
"""

from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from threading import Lock, Thread
from types import TracebackType
from typing import Self

from fedunlearn.errors import BadInput
from fedunlearn.watch.view import RunView

ADDRESS = "127.0.0.1"
_OWN = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; base-uri 'none'"
_REPORT = "default-src 'unsafe-inline' data: blob:; base-uri 'none'; form-action 'none'"
"""The report is one self-contained file; it loads nothing."""


class PageServer:
    """Serves a run's page until it is left.

    Args:
        look: returns what is seen of the run now; called from other threads, one at a time.
        report: the run's report.html, which need not exist yet.
        port: to listen at; 0 = any free one.

    Attributes:
        url: of the page.
        has_visitor: whether a browser has asked for the state of the run.
        gave_report: whether a browser has fetched the report.

    Raises:
        BadInput: the port cannot be used.
    """

    def __init__(self, look: Callable[[], RunView], report: Path, port: int) -> None:
        self._look, self._report, self._looking = look, report, Lock()
        self.gave_report = self.has_visitor = False
        owner = self

        class Handler(_Handler):
            page = owner

        try:
            self._server = ThreadingHTTPServer((ADDRESS, port), Handler)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise BadInput(f"--port {port}: cannot be used ({reason}); name another, or 0 for any") from error
        self.port = self._server.server_port
        self.url = f"http://{ADDRESS}:{self.port}/"

    def __enter__(self) -> Self:
        Thread(target=self._server.serve_forever, args=(0.1,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def content(self, address: str) -> tuple[str, str, bytes] | None:
        """Return (media type, content security policy, content) of an address; None = there is nothing.

        Args:
            address: path of the request, without a query.
        """
        if address == "/state":
            self.has_visitor = True
            with self._looking:
                return "application/json", _OWN, self._look().model_dump_json().encode()
        if address == "/report.html":
            try:
                content = self._report.read_bytes()
            except OSError:
                return None
            self.gave_report = True
            return "text/html; charset=utf-8", _REPORT, content
        # A fixed list: no part of an address ever becomes part of a path.
        name, kind = {
            "/": ("page.html", "text/html; charset=utf-8"),
            "/page.js": ("page.js", "text/javascript; charset=utf-8"),
            "/page.css": ("page.css", "text/css; charset=utf-8"),
        }.get(address, ("", ""))
        return (kind, _OWN, (files(__package__) / name).read_bytes()) if name else None


class _Handler(BaseHTTPRequestHandler):
    page: PageServer
    server_version, sys_version = "fedunlearn", ""

    def do_GET(self) -> None:
        """Answer with content."""
        self._answer(with_content=True)

    def do_HEAD(self) -> None:
        """Answer with headers alone."""
        self._answer(with_content=False)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def _answer(self, with_content: bool) -> None:
        port = self.page.port
        if self.headers.get("Host") not in (f"{ADDRESS}:{port}", f"localhost:{port}"):
            self.send_error(HTTPStatus.FORBIDDEN, "This page is for this machine alone")
            return
        found = self.page.content(self.path.partition("?")[0])
        if found is None:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        kind, policy, content = found
        self.send_response(HTTPStatus.OK)
        for name, value in (
            ("Content-Type", kind),
            ("Content-Length", str(len(content))),
            ("Content-Security-Policy", policy),
            ("Cache-Control", "no-store"),
            ("Cross-Origin-Resource-Policy", "same-origin"),
            ("X-Content-Type-Options", "nosniff"),
            ("Referrer-Policy", "no-referrer"),
        ):
            self.send_header(name, value)
        self.end_headers()
        if with_content:
            self.wfile.write(content)
