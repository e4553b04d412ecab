"""Where a frame ends: whatever comes in one piece or byte by byte is cut in the same places."""

import pytest

from chaos.frames import Frames, words_of

FRAMES = {
    "a word": b"+OK\r\n",
    "an error": b"-NOSCRIPT No matching script.\r\n",
    "a number": b":-12\r\n",
    "a string": b"$5\r\na\r\nb\r\r\n",
    "an empty string": b"$0\r\n\r\n",
    "no string": b"$-1\r\n",
    "a list in a list": b"*2\r\n*2\r\n$1\r\na\r\n:1\r\n$2\r\n\r\n\r\n",
    "an empty list": b"*0\r\n",
    "no list": b"*-1\r\n",
    "a map": b"%2\r\n+a\r\n*1\r\n:1\r\n+b\r\n_\r\n",
    "a set": b"~2\r\n#t\r\n,1.5\r\n",
    "a push": b">3\r\n+message\r\n$1\r\nc\r\n$1\r\nm\r\n",
    "attributes": b"|1\r\n+ttl\r\n:3\r\n$1\r\nv\r\n",
    "a verbatim text": b"=6\r\ntxt:\r\n\r\n",
    "a long error": b"!5\r\nERR\r\n\r\n",
    "a large number": b"(3492890328409238509324850943850943825024385\r\n",
    "a typed command": b"PING now\r\n",
}


@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES.keys())
def test_a_frame_ends_where_it_ends(frame: bytes) -> None:
    """A cut inside of a frame, one byte too early or too late, and each reply after it belongs to another command."""
    frames = Frames()
    assert frames.feed(frame + frame + b"+") == [frame, frame]
    assert frames.take_rest() == b"+"
    found = [frames.feed(bytes([byte])) for byte in frame]
    assert found == [[]] * (len(frame) - 1) + [[frame]]
    assert frames.take_rest() == b""


def test_all_frames_of_a_stream_in_pieces_of_any_length() -> None:
    stream = b"".join(FRAMES.values())
    for size in range(1, 40):
        frames = Frames()
        found = [frame for at in range(0, len(stream), size) for frame in frames.feed(stream[at : at + size])]
        assert found == list(FRAMES.values())


def test_the_words_of_a_command() -> None:
    """A script's source holds everything that RESP is made of."""
    source = b"return\r\n$3\r\nEND"
    frame = b"*3\r\n$4\r\nEVAL\r\n$%d\r\n%s\r\n$1\r\n0\r\n" % (len(source), source)
    assert words_of(frame, 2) == [b"EVAL", source]
    assert words_of(frame, 9) == [b"EVAL", source, b"0"]
    assert words_of(b"*1\r\n$4\r\nPING\r\n", 2) == [b"PING"]
    assert words_of(b"PING now or never\r\n", 2) == [b"PING", b"now"]
