"""The clients: what they send, what they write down, and that they go on when a connection breaks."""

import asyncio
import contextlib
import json
from collections.abc import Callable, Iterator

import pytest
from genlock.worker.demo import clients as room
from genlock.worker.demo.clients import Crowd, HeldOut, Load, length_of, requests_of
from genlock.worker.demo.news import Connected, Request

DIGITS = HeldOut([[[0.0] * 8] * 8, [[1.0] * 8] * 8], [0, 1])
Answer = Callable[[bytes, int], bytes]


def load(port: int, **more: object) -> Load:
    given = {"connections": 2, "interval_s": 0.01, "workers": 2} | more
    return Load(port=port, path="/evaluate/digits", held_out="", **given)  # type: ignore[arg-type]


def ok(worker: str, *, generation: int = 3, best: int = 1) -> bytes:
    scores = [float(number == best) for number in range(10)]
    body = {
        "outputs": [scores],
        "generation": generation,
        "version": "v",
        "worker": worker,
        "stale": False,
        "model": "digits",
    }
    return response(200, json.dumps(body).encode())


def response(status: int, body: bytes) -> bytes:
    return f"HTTP/1.1 {status} X\r\ncontent-LENGTH: {len(body)}\r\n\r\n".encode() + body


def played(answer: Answer, until: Callable[[Crowd], bool], **more: object) -> Crowd:
    """A crowd against a server that answers with `answer(body, connection)`, until a condition is true."""

    async def play() -> Crowd:
        numbers: Iterator[int] = iter(range(10_000))

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            number = next(numbers)
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while True:
                    _, length = length_of(b"HTTP/1.1 000 " + await reader.readuntil(b"\r\n\r\n"))
                    said = answer(await reader.readexactly(length), number)
                    writer.write(said)
                    if not said:
                        break
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            crowd = Crowd(load(server.sockets[0].getsockname()[1], **more), DIGITS)
            task = asyncio.create_task(crowd.run())
            await _wait(lambda: until(crowd))
            crowd.stopped.set()
            await task
        return crowd

    return asyncio.run(asyncio.wait_for(play(), 30))


async def _wait(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


def requests(crowd: Crowd) -> list[Request]:
    return [news for news in crowd.seen if isinstance(news, Request)]


def test_a_request_is_a_whole_http_message_with_one_digit() -> None:
    ready = requests_of(load(80), DIGITS)
    assert {label for _, label in ready} == {0, 1}
    for data, label in ready:
        head, _, body = data.partition(b"\r\n\r\n")
        assert head.startswith(b"POST /evaluate/digits HTTP/1.1\r\nHost: 127.0.0.1:80\r\n")
        assert f"Content-Length: {len(body)}".encode() in head
        assert json.loads(body) == {"inputs": [DIGITS.pictures[label]]}


def test_a_head_that_is_none_is_an_error() -> None:
    assert length_of(b"HTTP/1.1 204 No Content\r\nX: y\r\n\r\n") == (204, 0)
    with pytest.raises(ValueError):
        length_of(b"SSH-2.0-x y\r\n\r\n")


def test_it_writes_down_who_answered_from_what_and_whether_rightly() -> None:
    crowd = played(lambda body, n: ok(f"h:{n % 2}"), lambda c: len(requests(c)) > 20)
    seen = requests(crowd)
    assert {(r.generation, r.version, r.stale, r.error) for r in seen} == {(3, "v", False, "")}
    assert {r.correct for r in seen} == {True, False}
    assert all(0 < r.end - r.start <= r.latency + 1e-9 for r in seen)
    assert [news for news in crowd.seen if isinstance(news, Connected)] == [Connected(2)]


def test_connections_are_opened_again_until_each_worker_has_its_share() -> None:
    """All connections with one worker, and the flips of the others would never be seen. Here the first five go to the same one."""
    crowd = played(
        lambda body, n: ok("h:1" if n < 5 else f"h:{n}"),
        lambda c: c.opened == 2 and len(requests(c)) > 20,
    )
    assert len({r.worker for r in requests(crowd)[-6:]}) == 2


def test_when_one_worker_accepts_everything_it_goes_on_with_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "SPREAD_S", 0.1)
    crowd = played(lambda body, n: ok("h:1"), lambda c: c.opened == 2)
    assert {r.worker for r in requests(crowd)} == {"h:1"}


def test_an_error_is_written_down_and_the_connection_goes_on() -> None:
    """503, a hang-up in the middle of an answer, and something that is not HTTP: each is a failed request, and the next one is sent."""
    answers = iter([ok("h:0"), ok("h:1"), response(503, b"not\nready"), b"", response(200, b"[]"), b"x\r\n\r\n"])
    crowd = played(
        lambda body, n: next(answers, ok("h:0")),
        lambda c: len([r for r in requests(c) if r.error]) == 4 and requests(c)[-1].error == "",
    )
    errors = [r.error for r in requests(crowd) if r.error]
    assert any(error == "HTTP 503: not\nready" for error in errors)
    assert any(error.startswith("IncompleteReadError") for error in errors)
    assert any(error.startswith("ValidationError") for error in errors)
    assert all(r.generation == 0 for r in requests(crowd) if r.error)


def test_a_request_that_was_due_while_the_connection_waited_counts_from_when_it_was_due() -> None:
    """A service that stops must not look fast because its clients politely stopped asking."""

    async def play() -> list[Request]:
        busy = asyncio.Event()
        sent = 0

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal sent
            with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
                while True:
                    _, length = length_of(b"HTTP/1.1 000 " + await reader.readuntil(b"\r\n\r\n"))
                    await reader.readexactly(length)
                    sent += 1
                    if sent == 3:
                        await busy.wait()
                    writer.write(ok("h:1"))
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            crowd = Crowd(load(server.sockets[0].getsockname()[1], connections=1, workers=1), DIGITS)
            task = asyncio.create_task(crowd.run())
            await _wait(lambda: sent == 3)
            await asyncio.sleep(0.2)
            busy.set()
            await _wait(lambda: sent > 10)
            crowd.stopped.set()
            await task
        return requests(crowd)

    found = asyncio.run(asyncio.wait_for(play(), 30))
    late, took = found[3].latency, found[3].end - found[3].start
    assert late - took > 0.1, "from when it was due until it was sent"


def test_a_crowd_that_is_stopped_before_anybody_answers_ends() -> None:
    """Ctrl-C while the workers still start."""
    crowd = played(lambda body, n: b"", lambda c: len(c.seen) > 3)
    assert all(r.error for r in requests(crowd))
    assert crowd.opened == 0


def test_an_answer_that_never_comes_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "PATIENCE_S", 0.05)

    def answer(body: bytes, number: int) -> bytes:
        return b"HTTP/1.1 200 OK\r\n"

    crowd = played(answer, lambda c: len(c.seen) > 1)
    assert requests(crowd)[0].error.startswith("TimeoutError")
