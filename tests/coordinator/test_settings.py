"""coordinator/settings.py: arguments win over the environment, that over defaults, and nonsense over nothing."""

from __future__ import annotations

import os
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from genlock.coordinator.errors import SettingsInvalid
from genlock.coordinator.settings import TABLE, Settings
from hypothesis import given, settings
from hypothesis import strategies as st

#: A variable, what somebody writes into it, the field, and what that then is.
READ: list[tuple[str, str, str, Any]] = [
    ("GENLOCK_REDIS_URL", "redis://host:6379/1", "redis_url", "redis://host:6379/1"),
    ("GENLOCK_FLEET", "prod-1", "fleet", "prod-1"),
    ("GENLOCK_STATE_DIR", "/var/lib/genlock", "state_dir", Path("/var/lib/genlock")),
    ("GENLOCK_STORE", "/mnt/models", "store", Path("/mnt/models")),
    ("GENLOCK_STORE", "file:///mnt/models", "store", Path("/mnt/models")),
    ("GENLOCK_STORE", "s3://bucket/models/", "store", "s3://bucket/models"),
    ("GENLOCK_HOST_CACHE", "40GiB", "host_cache", 40 * 2**30),
    ("GENLOCK_LEASE", "3", "lease_s", 3.0),
    ("GENLOCK_LEASE", "500ms", "lease_s", 0.5),
    ("GENLOCK_LEASE", " 1m ", "lease_s", 60.0),
    ("GENLOCK_ON_DISCONNECT", "FAIL", "on_disconnect", "fail"),
    ("GENLOCK_MAX_WAIT", "2.5s", "max_wait_s", 2.5),
    ("GENLOCK_AGREEMENT", "all", "agreement", 1.0),
    ("GENLOCK_AGREEMENT", "0.9", "agreement", 0.9),
    ("GENLOCK_AGREEMENT", "90%", "agreement", 0.9),
    ("GENLOCK_PREPARE_TIMEOUT", "1h", "prepare_timeout_s", 3600.0),
    ("GENLOCK_MAX_BYTES", "4GiB", "max_bytes", 4 * 2**30),
    ("GENLOCK_MAX_BYTES", "1.5 MB", "max_bytes", 1_500_000),
    ("GENLOCK_MAX_BYTES", "1000", "max_bytes", 1000),
    ("GENLOCK_MAX_MODELS", "50", "max_models", 50),
    ("GENLOCK_CACHE_TTL", "10m", "cache_ttl_s", 600.0),
    ("GENLOCK_CACHE_TTL", "0", "cache_ttl_s", None),
    ("GENLOCK_CACHE_TTL", " 0.0 ", "cache_ttl_s", None),
    ("GENLOCK_USE_CACHE", "off", "use_cache", False),
    ("GENLOCK_FORCE_RELOAD", "Yes", "force_reload", True),
    ("GENLOCK_CHECK_MTIME", "true", "check_mtime", True),
    (
        "GENLOCK_WATCH",
        "/runs:m=/out/best.pt:runs/{model}/best.pt",
        "watch",
        ("/runs", "m=/out/best.pt", "runs/{model}/best.pt"),
    ),
    ("GENLOCK_LOADS_PER_HOST", "2", "loads_per_host", 2),
    ("GENLOCK_HIT_RATE_THRESHOLD", "0.5", "hit_rate_threshold", 0.5),
    ("GENLOCK_LOG", "JSON", "log", "json"),
    (
        "GENLOCK_ADMIN_TOKENS",
        "operator:12345678, viewer:a:b:c:d:e",
        "admin_tokens",
        (("operator", "12345678"), ("viewer", "a:b:c:d:e")),
    ),
    ("GENLOCK_ADMIN_TOKENS", "operator/al.ice:12345678", "admin_tokens", (("operator/al.ice", "12345678"),)),
    ("GENLOCK_ADMIN_TOKENS_FILE", "/run/secrets/tokens", "admin_tokens_file", Path("/run/secrets/tokens")),
    ("GENLOCK_ADMIN_SOURCES", "/srv/models:/home/x", "admin_sources", (Path("/srv/models"), Path("/home/x"))),
    ("GENLOCK_ADMIN_PROXIES", "1", "admin_proxies", 1),
    ("GENLOCK_SIGNING_KEY", "/run/secrets/key", "signing_key", "/run/secrets/key"),
    ("GENLOCK_VERIFY_KEYS", "/k, /l", "verify_keys", ("/k", "/l")),
    ("GENLOCK_OPERATOR_KEYS", "/k", "operator_keys", ("/k",)),
    ("GENLOCK_MODELS", "digits=pkg.mod:build, other,", "models", (("digits", "pkg.mod:build"), ("other", ""))),
]

REFUSED: list[tuple[str, str, str]] = [
    ("GENLOCK_FLEET", "a/b", "fleet's name"),
    ("GENLOCK_FLEET", "..", "fleet's name"),
    ("GENLOCK_LEASE", "0.09", r"0.1 to 60 seconds"),
    ("GENLOCK_LEASE", "61", r"0.1 to 60 seconds"),
    ("GENLOCK_LEASE", "soon", "a time is"),
    ("GENLOCK_LEASE", "-1", "a time is"),
    ("GENLOCK_LEASE", "nan", "a time is"),
    ("GENLOCK_ON_DISCONNECT", "wait", "stale, fail"),
    ("GENLOCK_MAX_WAIT", "0", "more than 0 seconds"),
    ("GENLOCK_MAX_WAIT", "-1", "more than 0 seconds"),
    ("GENLOCK_AGREEMENT", "0", "more than 0"),
    ("GENLOCK_AGREEMENT", "1.1", "at most 1"),
    ("GENLOCK_AGREEMENT", "nan", "at most 1"),
    ("GENLOCK_AGREEMENT", "most", "0.9, or 90%"),
    ("GENLOCK_MAX_BYTES", "4 sheep", "4GiB"),
    ("GENLOCK_MAX_BYTES", "-1", "4GiB"),
    ("GENLOCK_MAX_BYTES", "0", "at least 1 byte"),
    ("GENLOCK_MAX_MODELS", "51", "at most 50"),
    ("GENLOCK_MAX_MODELS", "0", "at least 1"),
    ("GENLOCK_MAX_MODELS", "1.5", "whole number"),
    ("GENLOCK_USE_CACHE", "maybe", "true or false"),
    ("GENLOCK_HIT_RATE_THRESHOLD", "2", "a share between 0 and 1"),
    ("GENLOCK_HIT_RATE_THRESHOLD", "abc", "a share between 0 and 1"),
    ("GENLOCK_HIT_RATE_THRESHOLD", "nan", "between 0 and 1"),
    ("GENLOCK_LOG", "xml", "text, json"),
    ("GENLOCK_ADMIN_TOKENS", "root:12345678", "operator:TOKEN"),
    ("GENLOCK_ADMIN_TOKENS", "operator:short", "8 characters"),
    ("GENLOCK_ADMIN_TOKENS", "operator/:12345678", "operator/alice:TOKEN"),
    ("GENLOCK_ADMIN_TOKENS", "operator/a b:12345678", "operator/alice:TOKEN"),
    ("GENLOCK_ADMIN_SOURCES", "models", "no absolute path"),
    ("GENLOCK_ADMIN_PROXIES", "-1", "from 0 to 9"),
    ("GENLOCK_ADMIN_PROXIES", "many", "from 0 to 9"),
    ("GENLOCK_MODELS", "a/b", "not a model's name"),
    ("GENLOCK_MODELS", "digits=build", "module:name"),
    ("GENLOCK_MODELS", "..", "not a model's name"),
    ("GENLOCK_MAX_BYTES", "9" * 400 + ".0GiB", "infinity"),
    ("GENLOCK_STORE", "~nobody-has-this-name/x", "home"),
    ("GENLOCK_STORE", "memory://x", "no other process"),
    ("GENLOCK_STORE", "s3://", "s3://bucket/prefix"),
    ("GENLOCK_STORE", "s3://me:secret@bucket/x", "no user and password"),
    ("GENLOCK_HOST_CACHE", "all", "4GiB"),
    ("GENLOCK_STATE_DIR", "a\0b", "NUL"),
]


def test_without_anything_set_the_defaults_count() -> None:
    made = Settings.from_env({})
    assert made == Settings()
    assert (made.fleet, made.lease_s, made.agreement, made.on_disconnect) == ("default", None, 1.0, "stale")
    assert made.redis_url is None


@pytest.mark.parametrize(("variable", "text", "field", "value"), READ)
def test_a_variable_is_read(variable: str, text: str, field: str, value: Any) -> None:
    assert getattr(Settings.from_env({variable: text}), field) == value


def test_every_variable_is_tested_here() -> None:
    assert {variable for variable, *_ in READ} == {row.variable for row in TABLE}


@pytest.mark.parametrize(("variable", "text", "why"), REFUSED)
def test_nonsense_is_refused_with_the_variable_the_value_and_the_reason(variable: str, text: str, why: str) -> None:
    """A worker that starts with another lease than was meant is worse than one that does not start."""
    with pytest.raises(SettingsInvalid, match=why) as caught:
        Settings.from_env({variable: text})
    secret = variable == "GENLOCK_ADMIN_TOKENS"
    assert (caught.value.setting, caught.value.value) == (variable, "…" if secret else text)


@pytest.mark.parametrize(("variable", "text", "field", "value"), READ)
def test_an_argument_is_read_as_the_variable_would_be(variable: str, text: str, field: str, value: Any) -> None:
    from_text = Settings.from_env({}, **{field: text})
    from_value = Settings.from_env({}, **{field: value})
    assert from_text == from_value == Settings.from_env({variable: text})


@pytest.mark.parametrize(("variable", "text", "why"), REFUSED)
def test_a_bad_argument_is_refused_like_a_bad_variable(variable: str, text: str, why: str) -> None:
    field = {row.variable: row.field for row in TABLE}[variable]
    with pytest.raises(SettingsInvalid, match=why):
        Settings.from_env({}, **{field: text})


def test_an_argument_wins_over_the_environment_and_none_does_not() -> None:
    environ = {"GENLOCK_FLEET": "prod", "GENLOCK_LEASE": "5"}
    made = Settings.from_env(environ, fleet="test", lease_s=None)
    assert (made.fleet, made.lease_s) == ("test", 5.0)


def test_an_empty_variable_is_not_set() -> None:
    """`GENLOCK_REDIS_URL=` in a container's file means that there is none."""
    assert Settings.from_env({row.variable: "" for row in TABLE}) == Settings()


def test_loaders_may_be_given_as_a_dict() -> None:
    made = Settings.from_env({}, models={"digits": "pkg.mod:build", "other": None})
    assert made.models == (("digits", "pkg.mod:build"), ("other", ""))


def test_an_unknown_argument_is_named() -> None:
    with pytest.raises(TypeError, match=r"no setting 'leese'; settings are redis_url, fleet"):
        Settings.from_env({}, leese=3)


def test_older_names_are_read_when_the_new_one_is_not_set() -> None:
    for row in TABLE:
        for older in row.older:
            text = {"M10D_CACHE_TTL": "7", "M10D_USE_CACHE": "no", "M10D_FORCE_RELOAD": "on", "M10D_CHECK_MTIME": "1"}[
                older
            ]
            assert Settings.from_env({older: text}) == Settings.from_env({row.variable: text}) != Settings()
    both = Settings.from_env({"M10D_CACHE_TTL": "7", "GENLOCK_CACHE_TTL": "8"})
    assert both.cache_ttl_s == 8.0
    with pytest.raises(SettingsInvalid, match="M10D_CACHE_TTL"):
        Settings.from_env({"M10D_CACHE_TTL": "never"})


#: A pair of keys, as `genlock keys generate` writes them.
SECRET_KEY = "genlock-secret-" + "A" * 43
PUBLIC_KEY = "genlock-public-" + "B" * 42 + "A"


def test_keys_are_texts_or_files() -> None:
    made = Settings.from_env(
        {
            "GENLOCK_SIGNING_KEY": f" {SECRET_KEY}\n",
            "GENLOCK_VERIFY_KEYS": f"{PUBLIC_KEY}, /etc/genlock/keys",
            "GENLOCK_OPERATOR_KEYS": "~/operators",
        }
    )
    assert made.signing_key == SECRET_KEY
    assert made.verify_keys == (PUBLIC_KEY, "/etc/genlock/keys")
    assert made.operator_keys == (str(Path("~/operators").expanduser()),)
    assert Settings.from_env({}, verify_keys=[PUBLIC_KEY, "/k"]).verify_keys == (PUBLIC_KEY, "/k")
    assert Settings().with_arguments(verify_keys=(Path("/k"),)).verify_keys == ("/k",)


def test_no_secret_is_printed() -> None:
    """A settings object stands in tracebacks and in people's logs; a URL of Redis may have a password, in several places."""
    made = Settings.from_env(
        {
            "GENLOCK_SIGNING_KEY": SECRET_KEY,
            "GENLOCK_ADMIN_TOKENS": "operator:hidden-one",
            "GENLOCK_REDIS_URL": "redis://host/0?password=hidden-two",
        }
    )
    assert "hidden" not in repr(made)
    assert "AAAA" not in repr(made)


@pytest.mark.parametrize(
    ("variable", "text", "why"),
    [
        ("GENLOCK_SIGNING_KEY", SECRET_KEY[:-1], "43 characters"),
        ("GENLOCK_SIGNING_KEY", SECRET_KEY[:-1] + "B", "43 characters"),
        ("GENLOCK_SIGNING_KEY", PUBLIC_KEY, "a secret key .* belongs here"),
        ("GENLOCK_VERIFY_KEYS", f"{PUBLIC_KEY},{SECRET_KEY}", "a public key .* belongs here"),
        ("GENLOCK_OPERATOR_KEYS", f"{SECRET_KEY},{PUBLIC_KEY}x", "a public key .* belongs here"),
        ("GENLOCK_VERIFY_KEYS", "keys.txt", "neither a public key"),
    ],
)
def test_a_key_in_the_wrong_place_is_refused_and_not_shown(variable: str, text: str, why: str) -> None:
    """A secret was pasted where the public key belongs: the error would have carried it into every log."""
    with pytest.raises(SettingsInvalid, match=why) as caught:
        Settings.from_env({variable: text})
    assert "AAAA" not in f"{caught.value}{caught.value.facts}{caught.value.__cause__}"


def test_the_environment_of_the_process_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("GENLOCK_", "M10D_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("GENLOCK_FLEET", "prod")
    assert Settings.from_env().fleet == "prod"


def test_the_store_lies_in_the_state_folder_unless_it_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    assert Settings().store_place == Path("/home/ann/.local/state/genlock/store")
    assert Settings.from_env({"XDG_STATE_HOME": "/state"}).store_place == Path("/state/genlock/store")
    set_here = Settings.from_env({"XDG_STATE_HOME": "/state", "GENLOCK_STATE_DIR": "~/g"})
    assert (set_here.state_dir, set_here.store_place) == (Path("/home/ann/g"), Path("/home/ann/g/store"))
    assert Settings.from_env({"GENLOCK_STORE": "~/m"}).store_place == Path("/home/ann/m")


def test_paths_do_not_move_with_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = Settings.from_env({"GENLOCK_STORE": "models", "GENLOCK_STATE_DIR": "state"})
    assert (made.store_place, made.state_dir) == (tmp_path / "models", tmp_path / "state")


def test_another_state_folder_brings_its_own_store() -> None:
    """Given as an argument it was ignored: two test fleets of one user met in one store."""
    assert Settings.from_env({}, state_dir="/g").store_place == Path("/g/store")
    assert Settings.from_env({"GENLOCK_STORE": "/m"}, state_dir="/g").store_place == Path("/m")


def test_every_setting_has_one_row_with_a_variable_and_a_meaning() -> None:
    assert [row.field for row in TABLE] == [one.name for one in fields(Settings)]
    assert len({row.variable for row in TABLE}) == len(TABLE)
    assert all(row.variable.startswith("GENLOCK_") and row.help for row in TABLE)


@settings(deadline=None)
@given(st.sampled_from([row for row in TABLE if row.field not in ("state_dir", "store")]), st.text(max_size=30))
def test_no_text_breaks_a_reader(row: Any, text: str) -> None:
    """It is read, and read again as an argument the same; or it is refused in words."""
    try:
        value = row.read(row.variable, text)
    except SettingsInvalid as error:
        assert row.variable in str(error)
    else:
        assert row.read(row.variable, row.text(value)) == value
