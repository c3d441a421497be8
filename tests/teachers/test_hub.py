"""Weights of the hub without a network: an error within seconds, and no more asking than needed."""

import socket
import time
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from p2pkit.errors import TeacherError
from p2pkit.teachers import TeacherOptions, open_teacher
from p2pkit.teachers import weights as hub
from p2pkit.teachers.timm_network import HUB_FILES
from p2pkit.teachers.weights import check_hub


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "PAUSE_SECONDS", 0.1)
    return tmp_path


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> str:
    """A port of this machine where nobody listens, as the hub's address."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    use(monkeypatch, port)
    return f"http://127.0.0.1:{port}"


def use(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    address = f"http://127.0.0.1:{port}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
    monkeypatch.setattr(
        "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE",
        address + "/{repo_id}/resolve/{revision}/{filename}",
    )


@contextmanager
def served(seconds: float) -> Generator[tuple[int, list[str]]]:
    """A hub that knows no model and says so after some time: its port, and what it was asked."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            asked.append(self.path)
            time.sleep(seconds)
            self.send_error(404)

        def log_message(self, format: str, *args: object) -> None:
            del format, args

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever).start()
    try:
        yield server.server_address[1], asked
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("name", ["resnet10t", "timm:vit_tiny_patch16_224", "hf:someone/model"])
def test_no_connection_is_told_at_once(name: str, endpoint: str) -> None:
    if name.startswith("hf:"):
        pytest.importorskip("transformers")
    begun = time.monotonic()
    with pytest.raises(TeacherError, match=f"{endpoint} cannot be reached .*When offline, "):
        open_teacher(TeacherOptions(name=name, weights="default"))
    assert time.monotonic() - begun < 20  # the hub's library alone would try for 23 s and more


def test_who_answers_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with served(0.0) as (port, asked):
        use(monkeypatch, port)
        check_hub("one", "someone/model@v2", HUB_FILES, instead="")
    assert asked == ["/someone/model/resolve/v2/model.safetensors"]


def test_who_answers_late_is_not_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "ANSWER_SECONDS", 0.2)
    with served(0.6) as (port, asked):
        use(monkeypatch, port)
        check_hub("one", "someone/model", HUB_FILES, instead="")
        assert len(asked) == 1


@pytest.mark.usefixtures("endpoint")
@pytest.mark.parametrize("file", HUB_FILES)
def test_what_was_fetched_before_needs_no_hub(file: str, empty_cache: Path) -> None:
    model = empty_cache / "models--someone--model"
    snapshot = model / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / file).touch()
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("abc")
    check_hub("one", "someone/model", HUB_FILES, instead="")
    with pytest.raises(TeacherError, match="cannot be reached"):
        check_hub("another", "someone/else", HUB_FILES, instead="")


@pytest.mark.usefixtures("endpoint")
def test_a_path_is_no_name_on_the_hub() -> None:
    check_hub("one", "/models/that/is/gone", HUB_FILES, instead="")
