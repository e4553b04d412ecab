"""What a client sends: every route, every method, bodies and headers of all kinds. 2xx, or a problem with a 4xx; never a 500, never late.

503 only where it is documented: a generation that is not there yet, a model that has none.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from flask import Flask
from genlock.coordinator.fleet import Fleet
from genlock.coordinator.problems import MEDIA_TYPE
from genlock.worker.app import create_app
from genlock.worker.cache import ModelCache
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

fuzz = settings.get_profile("fuzz")

#: Seconds that an answer may take: a busy machine with two cores pauses for a second or two; and with a body of megabytes.
LONGEST_S, LONGEST_LARGE_S = 5.0, 15.0
MODEL, MISSING = "m", "missing"


class Named(nn.Module):
    """Two arguments, one of whole numbers: names, types and shapes can all be wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, 2))

    def forward(self, x: torch.Tensor, ids: torch.Tensor | None = None) -> torch.Tensor:
        rows = self.weight if ids is None else nn.functional.embedding(ids, self.weight)
        return x @ rows.T


@pytest.fixture(scope="module")
def app(serving: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flask]:
    """A worker that holds `m` in generation 1, and is configured for a model that nobody has published."""
    folder = tmp_path_factory.mktemp("http")
    with serving(folder) as url:
        fleet = Fleet(url=url, name="t", store=folder / "store", state_dir=folder / "state", lease=30.0)
        fleet.settings = fleet.settings.with_arguments(max_wait_s=0.3)
        save_file({"weight": torch.ones(4, 2)}, folder / "m.safetensors")
        fleet.publish(MODEL, folder / "m.safetensors")
        cache = ModelCache(fleet, loaders={MODEL: Named, MISSING: Named})
        try:
            fleet.settings = fleet.settings.with_arguments(max_wait_s=20.0)
            assert cache.get(MODEL).generation == 1
            yield create_app(cache)
        finally:
            cache.close()
            fleet.close()


def check(answer: Any, began: float, *allowed: int, longest_s: float = LONGEST_S) -> None:
    took = time.monotonic() - began
    body = answer.get_data()
    assert took < longest_s, f"{took:.2f} s"
    assert 200 <= answer.status_code < 500 or answer.status_code in allowed, (answer.status, body[:500])
    assert b"Traceback" not in body
    if answer.status_code >= 400 and body:
        assert answer.content_type == MEDIA_TYPE, (answer.status, answer.content_type)
        assert json.loads(body)["status"] == answer.status_code


NUMBERS = (
    st.integers(-5, 5) | st.floats(width=32) | st.sampled_from([2**31, 2**63, 2**64, 10**400, 1e308, -1e308, 3.5e38])
)
LEAVES = NUMBERS | st.none() | st.booleans() | st.text(max_size=3) | st.sampled_from(["float32", "NaN", "\ud800"])
NESTED = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3), max_leaves=8)
MATRIX = st.lists(st.lists(NUMBERS, min_size=2, max_size=2), max_size=3) | st.lists(
    st.lists(LEAVES, max_size=3), max_size=3
)
KINDS = st.sampled_from(
    [
        "float16",
        "bfloat16",
        "float32",
        "float64",
        "uint8",
        "int32",
        "int64",
        "bool",
        "complex64",
        "object",
        "",
        "Tensor",
    ]
)
DTYPES = KINDS | st.dictionaries(st.sampled_from(["x", "ids", "", "y"]), KINDS | LEAVES, max_size=2) | NESTED
INPUTS = (
    MATRIX
    | NESTED
    | st.dictionaries(st.sampled_from(["x", "ids", "self", "", "input", "*", "x\0"]), MATRIX | NESTED, max_size=3)
)
BODIES = st.fixed_dictionaries({}, optional={"inputs": INPUTS, "dtype": DTYPES, "more": LEAVES}) | NESTED


def to_json(value: Any) -> bytes:
    return json.dumps(value).encode("utf-8", "surrogatepass")


@fuzz
@given(BODIES.map(to_json))
def test_json_of_any_shape_is_answered(app: Flask, body: bytes) -> None:
    began = time.monotonic()
    check(app.test_client().post("/evaluate/m", data=body, content_type="application/json"), began)


@fuzz
@given(INPUTS, DTYPES)
def test_inputs_of_any_shape_are_answered(app: Flask, inputs: Any, dtype: Any) -> None:
    began = time.monotonic()
    body = to_json({"inputs": inputs, "dtype": dtype})
    check(app.test_client().post("/evaluate/m", data=body, content_type="application/json"), began)


@fuzz
@given(
    st.binary(max_size=100),
    st.sampled_from(["application/json", "application/json; charset=utf-16", "text/plain", "", "a/b;c", "\xff"]),
)
def test_any_body_of_any_type_is_answered(app: Flask, body: bytes, content_type: str) -> None:
    began = time.monotonic()
    check(app.test_client().post("/evaluate/m", data=body, content_type=content_type), began)


def nested(depth: int, inside: bytes = b"1") -> bytes:
    return b'{"inputs":' + b"[" * depth + inside + b"]" * depth + b"}"


LARGE = {
    "empty": b"",
    "no inputs": b"{}",
    "null": b'{"inputs":null}',
    "nothing": b'{"inputs":[]}',
    "nothing in it": b'{"inputs":[[]]}',
    "nothing, wide": b'{"inputs":[[],[]]}',
    "deep": nested(16),
    "too deep": nested(17),
    "very deep": nested(100_000),
    "deep and cut": b'{"inputs":' + b"[" * 1_000_000,
    "objects": b'{"inputs":' + b'{"x":' * 100_000 + b"1" + b"}" * 100_000 + b"}",
    "ragged": b'{"inputs":[[1,2],[1]]}',
    "ragged below": b'{"inputs":[[[1,2]],[[1,2],[3]]]}',
    "a number and a list": b'{"inputs":[1,[1]]}',
    "huge integer": b'{"inputs":[[' + b"9" * 5000 + b",1]]}",
    "huge exponent": b'{"inputs":[[1e99999,1]]}',
    "NaN": b'{"inputs":[[NaN,1]]}',
    "1 MB of zeros": b'{"inputs":[' + b",".join([b"[0,0]"] * 170_000) + b"]}",
    "10 MB of text": b'{"inputs":"' + b"x" * 10_000_000 + b'"}',
    "10 MB of names": b'{"inputs":{' + b",".join(b'"%d":[1]' % n for n in range(700_000)) + b"}}",
    "1 MB of nothing": b'{"inputs":[' + b",".join([b"[]"] * 330_000) + b"]}",
    "1 MB, one ragged": b'{"inputs":[' + b",".join([b"[0,0]"] * 160_000) + b",[0]]}",
    "17 MB": b" " * 17 * 2**20,
    "twice": b'{"inputs":[[1,2]],"inputs":[[3,4]]}',
    "UTF-16": '{"inputs":[[1,2]]}'.encode("utf-16"),
    "a mark": b'\xef\xbb\xbf{"inputs":[[1,2]]}',
    "bool of numbers": b'{"inputs":[[1,2]],"dtype":"bool"}',
    "large index": b'{"inputs":{"x":[[1,2]],"ids":[99]},"dtype":{"ids":"int64"}}',
    "negative index": b'{"inputs":{"x":[[1,2]],"ids":[-1]},"dtype":{"ids":"int64"}}',
    "index too large for its type": b'{"inputs":{"x":[[1,2]],"ids":[99999999999]},"dtype":{"ids":"int32"}}',
    "256 as a byte": b'{"inputs":[[256,1]],"dtype":"uint8"}',
    "self": b'{"inputs":{"self":[[1,2]]}}',
}


@pytest.mark.parametrize("name", LARGE)
def test_bodies_that_no_generator_finds(app: Flask, name: str) -> None:
    """What is large costs what its bytes cost, and not what is in them: 700,000 names of inputs took 17 s, for as many tensors."""
    body = LARGE[name]
    began = time.monotonic()
    answer = app.test_client().post("/evaluate/m", data=body, content_type="application/json")
    check(answer, began, longest_s=LONGEST_S if len(body) < 10**6 else LONGEST_LARGE_S)


# --- headers -----------------------------------------------------------------------------------------------------------

DEMANDS = st.sampled_from(
    [
        "",
        "0",
        "1",
        "2",
        "-1",
        "+1",
        " 1 ",
        "1.0",
        "9" * 15,
        "9" * 16,
        "9" * 5000,
        "²",
        "１",
        "m=1",
        "m=1, n=2",
        "m=,",
        "=1",
        ",",
        "m=1;x",
        "1, m=2",
    ]
) | st.text(st.characters(codec="latin-1", exclude_characters="\r\n"), max_size=20)
HEADERS = st.dictionaries(
    st.sampled_from(
        ["X-Genlock-Key", "Authorization", "X-Forwarded-For", "Forwarded", "Content-Encoding", "Transfer-Encoding", "Accept", "Host",
         "Range",
         "Expect", "X-HTTP-Method-Override", "Cookie", "Content-Length"]
    ),
    st.sampled_from(["", "chunked", "gzip", "Bearer ", "Bearer ÿ", "Basic Og==", "-1", "9" * 30, "a b", "[::1", "\xff"]),
    max_size=3,
)  # fmt: skip


@fuzz
@given(DEMANDS)
def test_any_demand_is_answered(app: Flask, demand: str) -> None:
    """503 where a later generation is demanded than there is."""
    began = time.monotonic()
    headers = {"X-Genlock-Min-Generation": demand}
    check(app.test_client().post("/evaluate/m", json={"inputs": [[1, 2]]}, headers=headers), began, 503)


# --- routes ------------------------------------------------------------------------------------------------------------

#: A model that is served, one without a generation, and what is no name of any.
NAMES = st.sampled_from(
    ["m", "missing", "..", ".", "%2e%2e", "%2e%2e%2fetc", "a/b", "a%2fb", "%00", "%", "%zz", "%ff", "M", "m ",
      "m%20", "x" * 5000, "m;x", "m?x",
     "m#x", "<script>", "%0d%0aX: y", "²", "%ed%a0%80", "~", "*"]
) | st.text(st.characters(exclude_categories=["Cs"]), max_size=10)  # fmt: skip
PATHS = st.sampled_from(
    ["/livez", "/readyz", "/metrics", "/cache/stats", "/cache/status", "/cache/", "//", "/static/x", "/evaluate/"]
) | st.builds(
    "{}{}".format,
    st.sampled_from(["/evaluate/", "/cache/refresh/", "/", "/cache/stats?format=", "/cache/stats?"]),
    NAMES,
)
METHODS = st.sampled_from(["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE", "CONNECT", "X", ""])


@fuzz
@given(METHODS, PATHS, HEADERS, st.sampled_from([b"", b"{}", b"x"]))
@example("GET", "/cache/stats?format=xml", {}, b"")
@example("GET", "/cache/stats?format=", {}, b"")
@example("POST", "/cache/refresh/%2e%2e", {}, b"")
@example("POST", "/cache/refresh/nobody", {}, b"")
def test_every_route_answers_whatever_is_asked(
    app: Flask, method: str, path: str, headers: dict[str, str], body: bytes
) -> None:
    """As an operator of this host, who may do everything: 503 of `missing` and of /readyz, which say that nothing was published."""
    began = time.monotonic()
    answer = app.test_client().open(path, method=method, headers=headers, data=body)
    check(answer, began, *((503,) if path in ("/readyz", "/evaluate/missing") else ()))
