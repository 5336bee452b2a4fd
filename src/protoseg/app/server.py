"""The page over HTTP, for one person on one machine: the standard library's server, a few addresses, no path of a file in any.

A browser lets every page of the web send requests to this machine. So nothing is answered that another page has asked for, or
that was asked for under another name than this machine's (which a foreign name server may give to 127.0.0.1), and only what
this page's own script sends is taken in.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import traceback
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BufferedIOBase
from ipaddress import ip_address
from socketserver import TCPServer
from typing import Any, NoReturn
from urllib.parse import parse_qs, quote, urlsplit

from protoseg.app.desk import DOWNLOADS, Desk
from protoseg.app.gallery import BusyError
from protoseg.app.page import Page
from protoseg.atlas.pictures import Box

_PATIENCE = 60  # seconds in which something must come or go
_LONGEST_ADDRESS = 2000
_PIECE = 1 << 20


class GoneError(Exception):
    """Whoever asked does not wait any more."""


class Server(ThreadingHTTPServer):
    """Args: name or address to listen at; port, 0 for a free one; what answers; the page."""

    daemon_threads = True  # a look that takes minutes must not keep the program from ending

    def __init__(self, host: str, port: int, desk: Desk, page: Page) -> None:
        self.desk, self.page, self.local = desk, page, is_local(host)
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), Handler)

    def server_bind(self) -> None:
        """As a plain TCP server does: that of HTTP asks a name server for this machine's name, which nobody needs."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    @property
    def address(self) -> str:
        """Where the page is."""
        host, port = self.server_address[:2]
        name = host.decode() if isinstance(host, bytes | bytearray) else host
        return f"http://{f'[{name}]' if ':' in name else name}:{port}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that hangs up is no error."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server_version, sys_version = "protoseg", ""
    timeout = _PATIENCE
    server: Server

    def do_GET(self) -> None:
        self._answer(
            {
                "/": self._page,
                "/state": lambda: self._json(self.server.desk.state()),
                "/look": self._look,
                "/near": self._near,
                "/part": self._part,
                "/progress": lambda: self._json(self.server.desk.progress(self._number("model"), self._given("image"))),
                "/picture": self._picture,
                "/thumb": lambda: self._send(self.server.desk.thumb(self._given("image")), "image/jpeg", keep=True),
                "/download": self._download,
            }
        )

    def do_POST(self) -> None:
        self.close_connection = True  # what is left of a refused file would be taken for the next request
        self._answer({"/upload": self._upload})

    def _answer(self, routes: dict[str, Callable[[], None]]) -> None:
        try:
            if len(self.path) > _LONGEST_ADDRESS:
                self._refuse(HTTPStatus.REQUEST_URI_TOO_LONG, "this address is too long")
            self._check_asker()
            route = routes.get(urlsplit(self.path).path)
            if route is None:
                self._refuse(HTTPStatus.NOT_FOUND, "there is nothing here; the page is at /")
            route()
        except _RefusedError as refused:
            self._json({"error": str(refused)}, refused.status)
        except LookupError as error:
            self._json({"error": str(error.args[0] if error.args else error)}, HTTPStatus.NOT_FOUND)
        except OverflowError as error:
            self._json({"error": str(error)}, HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        except BusyError as error:
            self._json({"error": str(error)}, HTTPStatus.SERVICE_UNAVAILABLE)
        except ValueError as error:  # UnreadableImageError is one
            self._json({"error": str(error)}, HTTPStatus.UNPROCESSABLE_ENTITY)
        except (GoneError, ConnectionError, TimeoutError):
            self.close_connection = True
        except Exception:  # whatever it is, the next image may be well
            traceback.print_exc()
            message = "protoseg has failed on this; what happened stands in the terminal in which it runs"
            self._json({"error": message}, HTTPStatus.INTERNAL_SERVER_ERROR)

    def _check_asker(self) -> None:
        """Refuse what no page of this server can have sent."""
        host = self.headers.get("Host", "")
        if self.server.local and not _names_this_machine(host):
            self._refuse(HTTPStatus.FORBIDDEN, f"the app answers at {self.server.address} only")
        # A link on another page may open the app in a window of its own, where that page cannot look in.
        opens = self.headers.get("Sec-Fetch-Mode") == "navigate" and urlsplit(self.path).path == "/"
        if self.headers.get("Sec-Fetch-Site", "none") not in {"none", "same-origin"} and not opens:
            self._refuse(HTTPStatus.FORBIDDEN, "another page may not ask the app")
        origin = self.headers.get("Origin")
        if origin is not None and origin != f"http://{host}":
            self._refuse(HTTPStatus.FORBIDDEN, "another page may not ask the app")

    def _page(self) -> None:
        page = self.server.page
        self._send(page.text.encode(), "text/html; charset=utf-8", {"Content-Security-Policy": page.policy})

    def _look(self) -> None:
        said = self.server.desk.look(self._number("model"), self._given("image"), self._still_there)
        self._send(said, "application/octet-stream")

    def _near(self) -> None:
        said = self.server.desk.near(self._number("model"), self._given("image"), self._box(), self._still_there)
        self._send(said, "application/octet-stream")

    def _part(self) -> None:
        self._send(self.server.desk.part(self._given("image"), self._box(), self._bands()), "image/png", keep=True)

    def _picture(self) -> None:
        self._send(self.server.desk.picture(self._given("image"), self._bands()), "image/jpeg", keep=True)

    def _download(self) -> None:
        what = next((name for name in DOWNLOADS if name == self._given("what")), None)
        if what is None:
            self._refuse(HTTPStatus.BAD_REQUEST, f"there is {', '.join(DOWNLOADS)} to download")
        file = self.server.desk.download(self._number("model"), self._given("image"), what)
        name = quote(file.name, safe="", errors="replace")
        self._send(file.content, file.kind, {"Content-Disposition": f"attachment; filename*=UTF-8''{name}"})

    def _upload(self) -> None:
        if self.headers.get("X-Protoseg") != "upload":  # a form of another page cannot send it without asking first
            self._refuse(HTTPStatus.FORBIDDEN, "files are taken from the page of the app only")
        length = self.headers.get("Content-Length", "")
        if not _is_number(length) or self.headers.get("Transfer-Encoding"):
            self._refuse(HTTPStatus.LENGTH_REQUIRED, "a file must say how long it is")
        body = _Body(self.rfile, int(length))
        try:
            entry = self.server.desk.upload(self._given("name"), body.left, body.read)
        except (ValueError, BusyError):
            body.drain()  # a browser that is cut off in the middle of a file does not read why
            raise
        self._json(entry, HTTPStatus.CREATED)

    def _query(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.path).query, max_num_fields=8)

    def _given(self, name: str) -> str:
        values = self._query().get(name, [])
        if len(values) != 1:
            self._refuse(HTTPStatus.BAD_REQUEST, f"the address must say which {name}")
        return values[0]

    def _number(self, name: str) -> int:
        text = self._given(name)
        if not _is_number(text):
            self._refuse(HTTPStatus.BAD_REQUEST, f"{name} is a number")
        return int(text)

    def _box(self) -> Box:
        return Box(*self._numbers("box", 4, "0,0,400,600: top, left, height, width"))

    def _bands(self) -> tuple[int, int, int] | None:
        if "bands" not in self._query():
            return None
        red, green, blue = self._numbers("bands", 3, "3,2,1")
        return red, green, blue

    def _numbers(self, name: str, how_many: int, such_as: str) -> list[int]:
        numbers = self._given(name).split(",")
        if len(numbers) != how_many or not all(_is_number(number) for number in numbers):
            self._refuse(HTTPStatus.BAD_REQUEST, f"{name} is {how_many} numbers, such as {such_as}")
        return [int(number) for number in numbers]

    def _still_there(self) -> None:
        """Raises GoneError where the browser has hung up, because somebody has chosen another image meanwhile."""
        if select.select([self.connection], [], [], 0)[0] and not self.connection.recv(1, socket.MSG_PEEK):
            raise GoneError

    def _refuse(self, status: HTTPStatus, sentence: str) -> NoReturn:
        raise _RefusedError(status, sentence)

    def _json(self, content: Any, status: HTTPStatus = HTTPStatus.OK) -> None:
        self._send(json.dumps(content).encode(), "application/json", status=status)

    def _send(
        self,
        content: bytes,
        kind: str,
        more: dict[str, str] | None = None,
        *,
        status: HTTPStatus = HTTPStatus.OK,
        keep: bool = False,
    ) -> None:
        self.send_response(status)
        headers = {
            "Content-Type": kind,
            "Content-Length": str(len(content)),
            "Cache-Control": "private, max-age=600" if keep else "no-store",
            "X-Content-Type-Options": "nosniff",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Referrer-Policy": "no-referrer",
            **({"Connection": "close"} if self.close_connection else {}),
            **(more or {}),
        }
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the terminal is for what the user should read."""


class _Body:
    """What comes behind the head of a request, of so many bytes."""

    def __init__(self, file: BufferedIOBase, left: int) -> None:
        self.file, self.left = file, left

    def read(self, number: int) -> bytes:
        piece = self.file.read(min(number, self.left))
        self.left -= len(piece)
        return piece

    def drain(self) -> None:
        while self.left and self.read(_PIECE):
            pass


class _RefusedError(Exception):
    def __init__(self, status: HTTPStatus, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


def is_local(host: str) -> bool:
    """Whether nobody but this machine reaches an address."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _names_this_machine(host: str) -> bool:
    """Whether a Host header is one that a browser sends to this machine, and not another name that leads to it.

    At any port: whoever works on another machine reaches the app through a tunnel, `ssh -L 9000:localhost:8765`.
    """
    try:
        return is_local(urlsplit(f"//{host}").hostname or "")
    except ValueError:
        return False


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 12
