"""Servers on loopback for remote stores: moto's S3, a proxy that injects faults, and plain http."""

import contextlib
import http.client
import os
import re
import socket
import struct
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

START = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""


@dataclass(frozen=True)
class Request:
    """What a client asked for; `turn` counts requests of this method and path from 0."""

    method: str
    path: str
    range: str | None
    turn: int


Fault = str | float | None
"""A status such as 503, reset, cut, short, flip; seconds to wait (a float); or None: pass it on."""


@dataclass
class Faults:
    """Chooses a fault for each request, and remembers all requests."""

    choose: Callable[[Request], Fault] = lambda request: None
    requests: list[Request] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def meet(self, method: str, path: str, range: str | None) -> Fault:
        with self.lock:
            turn = sum((r.method, r.path) == (method, path) for r in self.requests)
            request = Request(method, path, range, turn)
            self.requests.append(request)
        return self.choose(request)

    def bytes_asked(self, ending: str) -> int:
        """Bytes of all range requests for paths of this ending."""
        ranges = [r.range for r in self.requests if r.path.endswith(ending) and r.range]
        ends = [re.fullmatch(r"bytes=(\d+)-(\d+)", text) for text in ranges]
        return sum(int(end[2]) - int(end[1]) + 1 for end in ends if end)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else a body waits 40 ms for the acknowledgement of its headers
    faults: Faults

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def answer(self) -> tuple[int, list[tuple[str, str]], bytes]:
        raise NotImplementedError

    def do_GET(self) -> None:
        fault = self.faults.meet(self.command, self.path, self.headers.get("Range"))
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if isinstance(fault, float):
            time.sleep(fault)
        if fault == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()
            return
        if isinstance(fault, str) and fault.isdigit():
            status, headers, body = int(fault), [], b"as asked"
        else:
            status, headers, body = self.answer()
        kept = [row for row in headers if row[0].lower() not in HOP_BY_HOP]
        length = next((v for k, v in headers if k.lower() == "content-length"), len(body))
        if fault == "flip" and body:
            body = body[:-1] + bytes([body[-1] ^ 1])
        if fault == "short" and body:
            body = body[: len(body) // 2]
            length = len(body)
        self.send_response_only(status)
        for name, value in kept:
            self.send_header(name, value)
        self.send_header("Content-Length", str(length if self.command == "HEAD" else len(body)))
        with contextlib.suppress(ConnectionError):
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body[: len(body) // 2] if fault == "cut" else body)
                self.close_connection = fault == "cut"

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET


KEY = "AWS4-HMAC-SHA256 Credential=testing/20260101/us-east-1/s3/aws4_request"
HOP_BY_HOP = ("connection", "content-length", "transfer-encoding", "keep-alive")


@contextlib.contextmanager
def serve(handler: type[_Handler], faults: Faults, **attributes: Any) -> Iterator[str]:
    """Run a server of this handler; yields its address, `http://127.0.0.1:port`."""
    kind = type("Handler", (handler,), {"faults": faults, **attributes})
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    server.daemon_threads = True
    server.block_on_close = False
    server.handle_error = lambda request, client_address: None  # clients leave, and are left
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class ProxyHandler(_Handler):
    """Passes requests on to `target` (host:port)."""

    target: str

    def answer(self) -> tuple[int, list[tuple[str, str]], bytes]:
        headers = {k: v for k, v in self.headers.items() if k.lower() not in HOP_BY_HOP}
        self.behind.request(self.command, self.path, self.body, headers)
        answer = self.behind.getresponse()
        return answer.status, answer.getheaders(), answer.read()

    def setup(self) -> None:
        super().setup()
        self.behind = http.client.HTTPConnection(self.target, timeout=30)

    def finish(self) -> None:
        self.behind.close()
        super().finish()


class FolderHandler(_Handler):
    """Serves the files below `folder`, with byte ranges unless `ranges` is off."""

    folder: Path
    ranges: bool = True

    def answer(self) -> tuple[int, list[tuple[str, str]], bytes]:
        path = self.folder / unquote(self.path.partition("?")[0]).lstrip("/")
        if not path.is_file() or self.command not in ("GET", "HEAD"):
            return 404, [], b"not here"
        data = path.read_bytes()
        headers = [
            ("Last-Modified", self.date_time_string(int(path.stat().st_mtime))),
            ("Accept-Ranges", "bytes"),
            ("ETag", f'"{len(data)}"'),
        ]
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range") or "")
        if asked and self.ranges:
            first, last = int(asked[1]), min(int(asked[2]), len(data) - 1)
            headers.append(("Content-Range", f"bytes {first}-{last}/{len(data)}"))
            return 206, headers, data[first : last + 1]
        return 200, [*headers, ("Content-Length", str(len(data)))], data


@contextlib.contextmanager
def moto_server() -> Iterator[str]:
    """moto's S3 in a process of its own; yields host:port."""
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", START],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "MOTO_ALLOW_NONEXISTENT_REGION": "true"},
    )
    assert process.stdin
    assert process.stdout
    try:
        port = next(
            line.strip() for line in iter(process.stdout.readline, "") if line[:1].isdigit()
        )
        yield f"127.0.0.1:{port}"
    finally:
        process.stdin.close()
        process.wait(20)
        process.stdout.close()


@dataclass(frozen=True)
class Bucket:
    """A bucket of an S3 server that is reached through a proxy with faults."""

    name: str
    endpoint: str
    faults: Faults

    @classmethod
    @contextlib.contextmanager
    def create(cls, address: str) -> "Iterator[Bucket]":
        """Make a new bucket on the server at host:port and put a proxy before it."""
        name, faults = f"b{uuid.uuid4().hex}", Faults()
        connection = http.client.HTTPConnection(address, timeout=30)
        connection.request("PUT", f"/{name}")
        assert connection.getresponse().status == 200
        connection.close()
        with serve(ProxyHandler, faults, target=address) as endpoint:
            yield cls(name, endpoint, faults)

    def url(self, prefix: str = "rooms.store") -> str:
        return f"s3://{self.name}/{prefix}"

    def upload(self, folder: Path, prefix: str = "rooms.store") -> str:
        """Put all files of a folder below a prefix, by nothing of ours; returns the URL."""
        connection = http.client.HTTPConnection(self.endpoint.removeprefix("http://"), timeout=30)
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                place = f"/{self.name}/{prefix}/{path.relative_to(folder).as_posix()}"
                connection.request("PUT", place, path.read_bytes(), {"Authorization": KEY})
                answer = connection.getresponse()
                answer.read()
                assert answer.status == 200, (place, answer.status)
        connection.close()
        self.faults.requests.clear()
        return self.url(prefix)
