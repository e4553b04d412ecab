"""Machines of their own: a network namespace with a cable to this one, and other bases of the monotonic clock."""

from __future__ import annotations

import random
import subprocess
from functools import cache

#: Seconds of one command of `ip` or `nft`: a busy machine needs a tenth.
COMMAND_S = 20
#: Cables of 4 addresses each that 10.213.0.0/16, a private range that hardly anybody uses, is cut into.
CABLES = 2**14
#: Namespaces that are tried before a free one is found; nearly all of CABLES are free.
TRIES = 50
_TABLE = "inet genlock"


class HostMissing(Exception):
    """There can be no such machine here; the text says why."""


class Host:
    """A context manager; what it made is gone at its end, except for processes, which who started them ends before."""

    def __init__(self, name: str) -> None:
        """`name`: its host name."""
        self.name = name
        #: Of this side of the cable, where a server for it listens; then of its own side. Known from its begin on.
        self.address, self.its_address = "", ""
        self._namespace, self._cable = "", ""

    def __enter__(self) -> Host:
        """Raises HostMissing."""
        if why := missing():
            raise HostMissing(why)
        self._begin()
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def _begin(self) -> None:
        index = _new_namespace()
        self._namespace, self._cable = f"genlock-{index}", f"genlock{index}"
        at = 4 * index
        self.address, self.its_address = (f"10.213.{at >> 8}.{(at & 255) + side}" for side in (1, 2))
        try:
            self._connect()
        except BaseException:
            self._end()
            raise

    def _end(self) -> None:
        """The system would take the cable away with the namespace, but later."""
        subprocess.run(["ip", "link", "del", self._cable], capture_output=True, timeout=COMMAND_S, check=False)
        _run("ip", "netns", "del", self._namespace)

    def _connect(self) -> None:
        inside = ("ip", "-n", self._namespace)
        _run("ip", "link", "add", self._cable, "type", "veth", "peer", "name", "cable", "netns", self._namespace)
        _run("ip", "address", "add", f"{self.address}/30", "dev", self._cable)
        _run("ip", "link", "set", self._cable, "up")
        _run(*inside, "address", "add", f"{self.its_address}/30", "dev", "cable")
        _run(*inside, "link", "set", "cable", "up")
        _run(*inside, "link", "set", "lo", "up")

    @property
    def prefix(self) -> list[str]:
        """Words before a command that is to run there. They replace themselves by it: the process is the command's."""
        rename = 'echo "$0" > /proc/sys/kernel/hostname && exec "$@"'
        return ["nsenter", f"--net=/run/netns/{self._namespace}", "unshare", "--uts", "sh", "-c", rename, self.name]

    def drop(self, *, inbound: bool = True, outbound: bool = True, port: int | None = None) -> None:
        """A partition: packets to it, or from it, are lost; its connections to itself stay. In place of one before.

        `port`: only those from, or to, this port of the other side.
        """
        ways = (("input", "iifname", "sport", inbound), ("output", "oifname", "dport", outbound))
        chains = [
            f'chain {hook} {{ type filter hook {hook} priority 0; {cable} "cable" {f"tcp {end} {port} " if port else ""}drop; }};'
            for hook, cable, end, does in ways
            if does
        ]
        self._rule(f"table {_TABLE} {{ {' '.join(chains)} }}")

    def heal(self) -> None:
        """Packets arrive again; what was lost is sent again by TCP, which may take as long as the partition was."""
        self._rule("")

    def _rule(self, table: str) -> None:
        """In one transaction; the first line makes sure that there is one to delete."""
        rules = f"table {_TABLE} {{ }}\ndelete table {_TABLE}\n{table}\n"
        _run("ip", "netns", "exec", self._namespace, "nft", "-f", "-", given=rules)


def time_namespace(monotonic_s: int, boottime_s: int) -> list[str]:
    """Words before a command whose clocks of that name are to be so far ahead, as on a machine that has been up for longer.
    Raises HostMissing."""
    if why := missing_time_namespace():
        raise HostMissing(why)
    return _time_prefix(monotonic_s, boottime_s)


@cache
def missing() -> str:
    """Why there can be no Host here; nothing, if there can: all that it does is tried once."""
    host = Host("try")
    try:
        host._begin()
        try:
            host.drop()
            host.heal()
            _run(*host.prefix, "true")
        finally:
            host._end()
    except HostMissing as error:
        return str(error)
    return ""


@cache
def missing_time_namespace() -> str:
    """Why clocks cannot have other bases here; nothing, if they can."""
    try:
        found = float(_run(*_time_prefix(0, 1_000_000), "cat", "/proc/uptime").split()[0])
    except HostMissing as error:
        return str(error)
    return "" if found > 1_000_000 else "this kernel moves only children into a time namespace (Linux before 6.0)"


def _time_prefix(monotonic_s: int, boottime_s: int) -> list[str]:
    return ["unshare", "--time", f"--monotonic={monotonic_s}", f"--boottime={boottime_s}"]


def _new_namespace() -> int:
    """The number of a namespace that nobody else has; two runs that try the same one do not both get it."""
    for index in random.sample(range(CABLES), TRIES):
        try:
            _run("ip", "netns", "add", f"genlock-{index}")
            return index
        except HostMissing as error:
            if "exists" not in str(error):
                raise
    raise HostMissing(f"{TRIES} namespaces that were tried exist already: ip netns list")


def _run(*command: str, given: str = "") -> str:
    """What it writes. Raises HostMissing with what it says."""
    try:
        done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=COMMAND_S, check=False)
    except FileNotFoundError:
        raise HostMissing(f"no {command[0]} on the PATH") from None
    if done.returncode:
        raise HostMissing(f"{' '.join(command)} says: {done.stderr.strip()}")
    return done.stdout
