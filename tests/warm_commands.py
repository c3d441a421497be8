"""`p2pkit` for shell scripts, without the seconds that each start takes.

A server imports the package once. Each `p2pkit` of a script is then a fork of it: a process with
the folder, environment, arguments and streams that a cold start would have, and its exit code.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import pkgutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

CLIENT = """#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    request = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(server, [len(request).to_bytes(4, "big")], [0, 1, 2])
    server.sendall(request)
    sys.exit(int.from_bytes(server.recv(1), "big"))
"""
IMPORTED_LATE = ("MinkowskiEngine", "timm", "torchvision", "tensorboard", "sklearn.neighbors")
"""What commands import where they need it."""


@contextlib.contextmanager
def warm_commands(folder: Path) -> Iterator[Path]:
    """Start the server; yields a folder for the front of PATH that holds its `p2pkit`."""
    address, programs = str(folder / "server"), folder / "bin"
    programs.mkdir(parents=True)
    (programs / "p2pkit").write_text(CLIENT.format(python=sys.executable, address=address))
    (programs / "p2pkit").chmod(0o755)
    server = subprocess.Popen(
        [sys.executable, __file__, address], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert server.stdin
    assert server.stdout
    try:
        assert server.stdout.readline() == b"ready\n"
        yield programs
    finally:
        server.stdin.close()
        server.stdout.close()
        server.terminate()
        server.wait()


def next_command(listener: socket.socket) -> list[str]:
    """Answer requests, each by a fork; gives the arguments in the fork."""
    while True:
        client, _ = listener.accept()
        size, streams, _, _ = socket.recv_fds(client, 4, 3)
        with client.makefile("rb") as file:
            arguments, cwd, environment = json.loads(file.read(int.from_bytes(size, "big")))
        worker = os.fork()
        if not worker:
            for number, stream in enumerate(streams):
                os.dup2(stream, number)
                os.close(stream)
            client.close()
            listener.close()
            os.chdir(cwd)
            os.environ.clear()
            os.environ.update(environment)
            return arguments
        for stream in streams:
            os.close(stream)
        code = os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1])
        with client, contextlib.suppress(BrokenPipeError):
            client.sendall((code if code >= 0 else 128 - code).to_bytes(1, "big"))


def serve(address: str) -> list[str]:
    """Import the package, then `next_command`."""
    import p2pkit

    for module in pkgutil.walk_packages(p2pkit.__path__, "p2pkit."):
        importlib.import_module(module.name)
    for name in IMPORTED_LATE:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    gc.freeze()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        print("ready", flush=True)
        return next_command(listener)


def end(code: int) -> NoReturn:
    """Leave as an interpreter does, but for freeing every object: that alone takes a second."""
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    sys.argv = ["p2pkit", *serve(sys.argv[1])]
    from p2pkit.cli.main import main

    try:
        main()
    except SystemExit as done:
        end(int(done.code or 0))
