"""A TCP port that stays one's own while nobody listens on it."""

import socket


class Port:
    """A free port of all addresses of this machine, kept for who listens there with SO_REUSEADDR, as servers do: from the
    death of one server to the start of the next nobody else gets it, and who connects is refused."""

    def __init__(self) -> None:
        self._keeper = socket.socket()
        self._keeper.bind(("", 0))
        # Behind the bind, or the system could give a port that another keeper shares.
        self._keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.number: int = self._keeper.getsockname()[1]

    def close(self) -> None:
        self._keeper.close()
