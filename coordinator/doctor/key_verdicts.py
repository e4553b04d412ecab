"""Who signs here, whom this host believes, and whether that goes together. Pure."""

from __future__ import annotations

from .facts import KeyFacts
from .finding import Finding

_ADVICE_KEYS = (
    "Set the same GENLOCK_VERIFY_KEYS on every worker: with the public keys of all who publish (`genlock keys show`)"
)


def judge_keys(keys: KeyFacts) -> Finding:
    """The keys that the settings name, as one finding."""
    if keys.error:
        return _finding("wrong", f"the keys that are set cannot be used: {keys.error}", "Mend the setting or the file")
    if not (keys.signer or keys.verify or keys.operators):
        return _finding("ok", "no keys are set: whoever may write to Redis and the store can publish a model")
    said = f"{_signs(keys)}; {_verifies(keys)}{_goes_back(keys)}"
    if keys.operators and not keys.verify:
        return _finding("warning", f"{said}; an order counts only where manifests are verified", _ADVICE_KEYS)
    if keys.signer and keys.verify and keys.signer not in (*keys.verify, *keys.operators):
        found = f"{said}; the key that signs here is none of those: workers here refuse what is published here"
        return _finding("wrong", found, _ADVICE_KEYS)
    if keys.in_environment:
        found = f"{said}; the secret key itself stands in the environment, which every child of this process gets"
        return _finding("warning", found, "Write it into a file (mode 600), and set GENLOCK_SIGNING_KEY to its path")
    if keys.group_reads:
        return _finding("warning", f"{said}; its file may be read by its group", "chmod g-rwx, unless that is meant")
    return _finding("ok", said)


def _finding(level: str, found: str, advice: str = "") -> Finding:
    return Finding("host", "signing", level, found, advice)  # type: ignore[arg-type]


def _signs(keys: KeyFacts) -> str:
    if not keys.signer:
        return "nothing is signed here: what is published from here is refused by workers that verify"
    if keys.verify and keys.signer not in keys.verify and keys.signer in keys.operators:
        return f"rollbacks are ordered here with key {keys.signer}, which publishes nothing"
    return f"signed here with key {keys.signer}"


def _verifies(keys: KeyFacts) -> str:
    if not keys.verify:
        return "nothing is verified here: a worker that is started here loads whatever Redis names"
    return f"a worker that is started here loads only what is signed with {_listed(keys.verify)}"


def _goes_back(keys: KeyFacts) -> str:
    if keys.operators:
        return f", and goes back only by an order of {_listed(keys.operators)}, or as its trainer signed"
    return ", and goes back to anything signed that Redis calls a rollback" if keys.verify else ""


def _listed(ids: tuple[str, ...]) -> str:
    return " or ".join(ids)
