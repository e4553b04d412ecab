"""What processes tell each other survives the pipe."""

import pytest
from genlock.worker.demo.news import Connected, News, Published, Publishing, Request, Trained, decode, encode
from msgspec import DecodeError

EXAMPLES: list[News] = [
    Request(1.5, 2.5, 1.25, 3, "v", "h:1", True, True),
    Request(1.5, 2.5, 1.0, error="HTTP 500: a\nb"),
    Connected(4),
    Trained(1, 2.25, 0.5),
    Publishing("epoch 2"),
    Published(outcome="rejected", what="full of NaN", broken=True, began=1.0, ended=2.0, why="nan"),
]


@pytest.mark.parametrize("news", EXAMPLES, ids=lambda news: type(news).__name__)
def test_each_kind_of_news_is_one_line(news: News) -> None:
    line = encode(news)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert decode(line) == news


def test_half_a_line_is_an_error() -> None:
    with pytest.raises(DecodeError):
        decode(encode(EXAMPLES[0])[:20])
