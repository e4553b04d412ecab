"""The frames of RESP 2 and 3 as they lie in a stream: where each ends, and the first words of a command. Pure."""

#: Elements that a length in bytes and that many bytes follow: string, verbatim text, long error.
_BULKS = b"$=!"
#: Elements that as many others follow as they say: array, set, push.
_LISTS = b"*~>"
_MAP, _ATTRIBUTES = ord("%"), ord("|")


class Frames:
    """Takes bytes as they come, gives whole frames; what is no frame of RESP (an inline command) ends with its line."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._at = 0  #: where the next element of the first frame begins
        self._missing = 1  #: elements that the first frame still lacks

    def feed(self, data: bytes) -> list[bytes]:
        """The frames that are whole with `data`."""
        self._buffer += data
        frames = []
        while self._scan():
            frames.append(bytes(self._buffer[: self._at]))
            del self._buffer[: self._at]
            self._at, self._missing = 0, 1
        return frames

    def take_rest(self) -> bytes:
        """What has come of a frame that is not whole; it is forgotten."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        self._at, self._missing = 0, 1
        return rest

    def _scan(self) -> bool:
        """Whether the first frame is whole."""
        while self._missing:
            line = self._buffer.find(b"\r\n", self._at)
            if line < 0:
                return False
            end, more = self._element(self._buffer[self._at], self._at + 1, line)
            if end > len(self._buffer):
                return False
            self._at, self._missing = end, self._missing - 1 + more
        return True

    def _element(self, kind: int, start: int, line: int) -> tuple[int, int]:
        """Where the element ends, and how many others belong to it. A length below 0 means nothing."""
        if kind in _BULKS:
            length = int(self._buffer[start:line])
            return (line + 2 + length + 2 if length >= 0 else line + 2), 0
        if kind in _LISTS:
            return line + 2, max(0, int(self._buffer[start:line]))
        if kind == _MAP:
            return line + 2, 2 * int(self._buffer[start:line])
        if kind == _ATTRIBUTES:  # they come before the element that they describe
            return line + 2, 2 * int(self._buffer[start:line]) + 1
        return line + 2, 0


def words_of(frame: bytes, count: int) -> list[bytes]:
    """The first `count` words of a command, or all, if there are fewer."""
    if not frame.startswith(b"*"):
        return frame.split()[:count]
    words: list[bytes] = []
    at = frame.index(b"\r\n") + 2
    while len(words) < count and at < len(frame):
        line = frame.index(b"\r\n", at)
        end = line + 2 + int(frame[at + 1 : line])
        words.append(frame[line + 2 : end])
        at = end + 2
    return words
