"""The program as a whole: help, errors, exit status, and commands of other distributions."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import pytest
from genlock.coordinator.commands.program import COMMANDS

PROGRAM = (sys.executable, "-m", "genlock.coordinator.commands")
#: Modules that would make every command slow.
HEAVY = ("torch", "numpy", "flask", "gunicorn", "sklearn")


def test_no_argument_shows_the_help_with_every_command(genlock: Callable[..., Any]) -> None:
    """`genlock` alone ended with an error, and nobody knew how to go on."""
    ran = genlock()
    assert ran.status == 0 and ran.err == ""
    for name in COMMANDS:
        assert f"\n  {name} " in ran.out


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_fits_a_terminal(genlock: Callable[..., Any], command: str) -> None:
    """Help that wraps at column 81 is not read; every command takes the shared options, but for those that would do nothing there."""
    ran = genlock(command, "--help")
    assert ran.status == 0
    assert max(len(line) for line in ran.out.splitlines()) <= 80
    assert "--json" in ran.out
    for option in ("--redis-url", "--fleet", "--store", "--state-dir"):
        assert (option in ran.out) == (command != "keys")


def test_the_summary_of_every_command_is_shown_whole(genlock: Callable[..., Any]) -> None:
    """Half of the summaries ended in dots where the sentence became interesting."""
    assert "..." not in genlock("--help").out.replace("[ARGS]...", "")


def test_the_version_is_that_of_the_distribution(genlock: Callable[..., Any]) -> None:
    """A bug report named no version, because no command told it."""
    ran = genlock("--version")
    assert (ran.status, ran.out) == (0, f"genlock {version('genlock')}\n")


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (("statsu",), "Did you mean 'status'?"),
        (("publish",), "Missing argument"),
        (("status", "--colour"), "--colour"),
        (("rollback", "m", "--to", "x"), "'--to': 'x' is no whole number"),
        (("gc", "--keep", "x"), "'--keep': 'x' is no whole number"),
        (("gc", "--keep", "1"), "2 at least"),
        (("admin", "--threads", "1"), "2 at least"),
        (("admin", "--port", "8900"), "No such option: --port; here it is --bind\n"),
        (("keys",), "Missing argument 'generate|show'.\n"),
        (("keys", "list"), "'list' is neither `generate` nor `show`"),
        (("publish", "m", "f", "--policy", "errors=1%"), "--canary 5%"),
        (("publish", "m", "f", "--timeout", "5x"), "300ms"),
    ],
)
def test_a_wrong_command_line_says_what_is_wrong_and_where_the_help_is(
    genlock: Callable[..., Any], arguments: tuple[str, ...], found: str
) -> None:
    """Usage errors are status 2, on stderr; a script that took stdout got the usage as data."""
    ran = genlock(*arguments)
    assert (ran.status, ran.out) == (2, "")
    assert found in ran.err and "--help" in ran.err


def test_a_wrong_command_line_is_json_too_when_json_was_asked_for(genlock: Callable[..., Any]) -> None:
    """A program that called with a misspelt option had to parse a sentence on stderr."""
    ran = genlock("status", "--colour", "--json")
    assert ran.status == 2 and ran.err == ""
    assert ran.document["outcome"] == "usage" and "--colour" in ran.document["error"]


def test_an_error_of_ours_is_a_sentence_and_its_exit_status(genlock: Callable[..., Any]) -> None:
    """A name that cannot be a fleet's ended in a traceback."""
    ran = genlock("status", "--fleet", "a b")
    assert (ran.status, ran.out) == (2, "")
    assert ran.err.startswith("genlock: ") and "'a b'" in ran.err and "Traceback" not in ran.err


def test_an_error_of_ours_in_json_carries_its_facts(genlock: Callable[..., Any]) -> None:
    """The sentence alone had to be taken apart to learn which setting was meant."""
    ran = genlock("status", "--fleet", "a b", "--json")
    assert ran.status == 2
    assert {"outcome": "misuse", "setting": "fleet", "value": "a b"}.items() <= ran.document.items()
    assert ran.document["error"]


def test_no_redis_is_exit_status_5_and_says_what_to_do(genlock: Callable[..., Any], tmp_path: Any) -> None:
    """A stopped Redis looked like a rejected checkpoint to the job that published it."""
    url = f"unix://{tmp_path}/nobody"
    ran = genlock("status", "--redis-url", url)
    assert ran.status == 5 and url in ran.err and "GENLOCK_REDIS_URL" in ran.err
    assert genlock("status", "--redis-url", url, "--json").document["outcome"] == "unavailable"


def test_a_name_of_any_bytes_can_be_told(genlock: Callable[..., Any], tmp_path: Any) -> None:
    """A file's name that is no UTF-8 made the error about it a UnicodeEncodeError."""
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/\xff")
    assert genlock("publish", "m", odd).status == 1
    assert "\\udcff" in genlock("publish", "m", odd, "--json").out


# --- commands of other distributions -----------------------------------------------------------------------------

HELLO = '''
from typing import Annotated
import typer
from genlock.coordinator.errors import NoGeneration

def command(who: str, loud: bool = False) -> None:
    """Greet somebody."""
    if who == "nobody":
        raise NoGeneration("m", 1, "nobody to greet")
    if who == "ctrl-c":
        raise KeyboardInterrupt
    print("HELLO" if loud else "hello", who)
    raise typer.Exit(7 if loud else 0)
'''


def test_an_entry_point_is_a_command(genlock: Callable[..., Any], plug_in: Callable[[str, str], None]) -> None:
    """The worker's `demo` comes this way: the coordinator must not import the worker."""
    plug_in("hello", HELLO)
    assert "hello" in genlock("--help").out and "Greet somebody." in genlock("--help").out
    ran = genlock("hello", "Ada")
    assert (ran.status, ran.out) == (0, "hello Ada\n")
    assert genlock("hello", "Ada", "--loud").status == 7


def test_errors_of_an_entry_point_are_mapped_as_ours(
    genlock: Callable[..., Any], plug_in: Callable[[str, str], None]
) -> None:
    """One place maps errors; a command from elsewhere had tracebacks."""
    plug_in("hello", HELLO)
    ran = genlock("hello", "nobody")
    assert ran.status == 1 and "nobody to greet" in ran.err
    ran = genlock("hello", "ctrl-c")
    assert (ran.status, ran.err) == (130, "genlock: interrupted\n")


def test_a_broken_entry_point_takes_no_other_command_along(
    genlock: Callable[..., Any], plug_in: Callable[[str, str], None]
) -> None:
    """A distribution without its library made `genlock --help` a traceback, and `genlock status` with it."""
    plug_in("broken", "import a_library_that_is_not_there")
    assert "(cannot be loaded)" in genlock("--help").out
    assert genlock("status").status == 0
    ran = genlock("broken", "--json")
    assert ran.status == 2  # it has no such option: nothing is known of it
    ran = genlock("broken")
    assert ran.status == 1 and "a_library_that_is_not_there" in ran.err and "plugged_broken:command" in ran.err


def test_an_entry_point_is_not_loaded_for_another_command(
    genlock: Callable[..., Any], plug_in: Callable[[str, str], None]
) -> None:
    """A slow import of one distribution slowed every `genlock publish`."""
    plug_in("slow", "raise SystemExit('loaded')")
    assert genlock("status").status == 0
    assert "plugged_slow" not in sys.modules


def test_our_own_commands_cannot_be_replaced(genlock: Callable[..., Any], plug_in: Callable[[str, str], None]) -> None:
    """An entry point named `status` must not decide what an operator sees."""
    plug_in("status", HELLO)
    assert "fleet t" in genlock("status").out


# --- real processes ----------------------------------------------------------------------------------------------


def test_a_real_process_ends_with_the_status_and_loads_nothing_heavy(environment: None) -> None:
    """`genlock status` took three seconds because something imported torch."""
    code = f"""
import sys
from genlock.coordinator.commands import main
status = main(["status", "--json"])
print([name for name in {HEAVY} + ("rich",) if name in sys.modules], file=sys.stderr)
sys.exit(status)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "[]\n")
    assert json.loads(done.stdout)["name"] == "t"


def test_the_help_needs_no_redis_client(environment: None) -> None:
    """Half of the time of `genlock --help` went into importing a client that nobody used."""
    code = (
        "import sys; from genlock.coordinator.commands import main; main(['--help']); sys.exit('redis' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, timeout=60).returncode == 0


def test_a_closed_pipe_is_no_error(environment: None) -> None:
    """`genlock events | head -1` ended with a BrokenPipeError on the terminal."""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([*PROGRAM, "status"], stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")
