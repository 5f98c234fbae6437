"""One HTTP POST that another thread can end, on the standard library's client.

An async client would bring three packages for what a thread that waits does as well: judges answer in seconds, and a
few dozen at a time. Redirects are not followed, since the request carries a key.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

MAX_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Response:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes


class Post:
    """A request to be sent by one thread, and given up by another."""

    def __init__(self, url: str, headers: Mapping[str, str], body: bytes, *, timeout_seconds: float) -> None:
        """`timeout_seconds` bounds each wait for the network; only `abort` bounds them together."""
        parts = urlsplit(url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        assert parts.hostname is not None
        self._connection = kind(parts.hostname, parts.port, timeout=timeout_seconds)
        self._path = parts.path + (f"?{parts.query}" if parts.query else "")
        self._headers, self._body = dict(headers), body
        self._socket: socket.socket | None = None
        self._aborted = False

    def send(self) -> Response:
        """The response. Raises `OSError` or `http.client.HTTPException` where there is none."""
        try:
            self._connection.connect()
            self._socket = self._connection.sock
            if self._aborted:
                raise ConnectionAbortedError("given up")
            self._connection.request("POST", self._path, self._body, self._headers)
            response = self._connection.getresponse()
            body = response.read(MAX_BYTES + 1)
            if len(body) > MAX_BYTES:
                raise http.client.HTTPException(f"a response of more than {MAX_BYTES} bytes")
            return Response(response.status, {key.lower(): value for key, value in response.getheaders()}, body)
        finally:
            self._connection.close()

    def abort(self) -> None:
        """End the exchange: whoever waits in `send` gets an `OSError`."""
        self._aborted = True
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
