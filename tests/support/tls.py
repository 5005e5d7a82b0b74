"""Certificates of authorities that tests make themselves, and a Docker daemon that requires them."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

_PIECE = 1 << 16


def authority(folder: Path, name: str) -> None:
    """Make a certificate authority: NAME.pem and NAME.key."""
    folder.mkdir(parents=True, exist_ok=True)
    _openssl(
        *("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}"),
        *("-keyout", folder / f"{name}.key", "-out", folder / f"{name}.pem"),
    )


def certificate(folder: Path, signer: Path, usage: str, address: str | None = None) -> None:
    """Make cert.pem and key.pem, signed by the authority `signer` (a path without .pem), and its ca.pem."""
    folder.mkdir(parents=True, exist_ok=True)
    request, extensions = folder / "request", folder / "extensions"
    _openssl(
        *("req", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=lab", "-keyout", folder / "key.pem", "-out", request)
    )
    names = f"subjectAltName=IP:{address}\n" if address else ""
    extensions.write_text(f"extendedKeyUsage={usage}\n{names}")
    _openssl(
        *("x509", "-req", "-in", request, "-days", "2", "-CAcreateserial", "-extfile", extensions),
        *("-CA", f"{signer}.pem", "-CAkey", f"{signer}.key", "-out", folder / "cert.pem"),
    )
    (folder / "ca.pem").write_bytes(Path(f"{signer}.pem").read_bytes())


@contextlib.contextmanager
def front(folder: Path) -> Iterator[str]:
    """Put TLS in front of the daemon of DOCKER_HOST, a socket, and yield the address, as of a daemon elsewhere.

    `folder`/client has valid certificates for clients, and `folder`/wrong and `folder`/distrusted have invalid ones.
    """
    path = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://")
    for name in ("ours", "others"):
        authority(folder, name)
    certificate(folder / "server", folder / "ours", "serverAuth", "127.0.0.1")
    certificate(folder / "client", folder / "ours", "clientAuth")
    certificate(folder / "wrong", folder / "others", "clientAuth")
    certificate(folder / "distrusted", folder / "others", "clientAuth")
    (folder / "distrusted/ca.pem").write_bytes((folder / "ours.pem").read_bytes())
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(folder / "ours.pem"))
    context.load_cert_chain(folder / "server/cert.pem", folder / "server/key.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_accept, args=(listener, context, path), daemon=True).start()
        yield f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)


def _accept(listener: socket.socket, context: ssl.SSLContext, path: str) -> None:
    with contextlib.suppress(OSError):
        while True:
            client, _ = listener.accept()
            threading.Thread(target=_serve, args=(client, context, path), daemon=True).start()


def _serve(client: socket.socket, context: ssl.SSLContext, path: str) -> None:
    with (
        contextlib.suppress(OSError),
        context.wrap_socket(client, server_side=True) as secured,
        socket.socket(socket.AF_UNIX) as daemon,
    ):
        daemon.connect(path)
        threading.Thread(target=_hand_on, args=(secured, daemon), daemon=True).start()
        _hand_on(daemon, secured)


def _hand_on(one: socket.socket, other: socket.socket) -> None:
    with contextlib.suppress(OSError, ValueError):
        while data := one.recv(_PIECE):
            other.sendall(data)
    for end in one, other:
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def _openssl(*args: str | Path) -> None:
    subprocess.run(["openssl", *args], check=True, capture_output=True, stdin=subprocess.DEVNULL)
