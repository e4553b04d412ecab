"""`genlock admin`: serves the coordinator's HTTP and its page."""

from __future__ import annotations

import secrets
import socket
import sys
from importlib.util import find_spec
from typing import Annotated

import typer

from ..errors import CommandBroken
from ..gate import is_loopback
from ..tokens import tokens_of
from . import output
from .publishing import read_whole
from .session import Session

#: Bytes of a token that is made for one run.
TOKEN_BYTES = 24
#: Threads without which a page gets no answer.
LEAST_THREADS = 2
#: What the extra `admin` brings.
NEEDED = ("flask", "gunicorn")


def read_threads(text: str | int) -> int:
    """How many threads serve; raises typer.BadParameter."""
    if (number := read_whole(text)) < LEAST_THREADS:
        raise typer.BadParameter(f"{LEAST_THREADS} at least: one for a page that stays open, one for what it asks")
    return number


def admin(
    session: Session,
    bind: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where to listen.")] = "127.0.0.1:8900",
    threads: Annotated[
        int,
        typer.Option(
            metavar="N",
            parser=read_threads,
            help="Requests at the same time; open pages need one each, 16 are kept free.",
        ),
    ] = 48,
) -> None:
    """Serve the dashboard and the HTTP of the coordinator.

    With GENLOCK_ADMIN_TOKENS or GENLOCK_ADMIN_TOKENS_FILE set, for who has a token. Without, on this machine only, by a link with a
    token that is good for this run.
    """
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise CommandBroken(
            "admin", "genlock[admin]", f"{' and '.join(missing)} not installed: pip install 'genlock[admin]'"
        )
    host = _host(bind)
    token = None
    if not tokens_of(session.settings):
        if not (is_loopback(host) or host == "localhost"):
            raise typer.BadParameter(
                f"{bind} can be reached from elsewhere, and no tokens are set: set GENLOCK_ADMIN_TOKENS=operator:TOKEN, or leave --bind"
                " away and let a proxy with its own log-in stand before it"
            )
        token = secrets.token_urlsafe(TOKEN_BYTES)
    _check_free(host, int(bind.rpartition(":")[2]))
    url = f"http://{bind}/" + (f"#token={token}" if token else "")
    session.show({"url": url, "token": token}, lambda: _said(url, token))
    sys.stdout.flush()  # in a container or a unit nobody would see it before the end
    from ..admin.serving import Server

    Server(session.settings, bind=bind, threads=threads, token=token).run()


def _check_free(host: str, port: int) -> None:
    """The link that is printed must not lead to somebody else's admin."""
    try:
        family, kind, _, _, place = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as gunicorn does
            probe.bind(place)
    except OSError as error:
        why = error.strerror or str(error)
        raise typer.BadParameter(f"cannot listen on {host}:{port} ({why}): choose another --bind") from None


def _host(bind: str) -> str:
    host, colon, port = bind.rpartition(":")
    if not (host and colon and port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise typer.BadParameter(f"{bind!r} is not HOST:PORT, such as 127.0.0.1:8900 or [::1]:8900")
    return host.strip("[]")


def _said(url: str, token: str | None) -> list[str | output.Table]:
    if token is None:
        return [f"genlock admin: {url}", "Log in with a token of GENLOCK_ADMIN_TOKENS. Ctrl-C ends it."]
    return [f"genlock admin: {url}", "Whoever has this link may do everything, until this ends. Ctrl-C ends it."]
