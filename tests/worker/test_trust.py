"""worker/trust.py: what a worker refuses, whoever writes to Redis; each refusal in a real fleet, and what goes on meanwhile."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis
import torch
from genlock.coordinator import serials
from genlock.coordinator.calls import Lock, Propose, Read
from genlock.coordinator.commands.top import look_at
from genlock.coordinator.errors import FlipRejected, NotReady, NotTrusted, UnknownKey, Unsigned, WrongSignature
from genlock.coordinator.fleet import Fleet
from genlock.coordinator.flip import Flip
from genlock.coordinator.hostlock import locked
from genlock.coordinator.keyring import Keyring
from genlock.coordinator.manifest import Manifest, decode
from genlock.coordinator.serials import Serials
from genlock.coordinator.settings import Settings
from genlock.coordinator.signer import Signer
from genlock.coordinator.signing import KeyPair
from genlock.worker import trust, unwritten
from genlock.worker.cache import ModelCache
from safetensors.torch import save_file
from torch import nn

WaitFor = Callable[..., Any]
NewCache = Callable[..., ModelCache]


def linear() -> nn.Module:
    return nn.Linear(2, 2)


TRAINER, OPERATOR, STRANGER = KeyPair(b"t" * 32), KeyPair(b"o" * 32), KeyPair(b"s" * 32)


@dataclass
class Stand:
    """One fleet: who publishes, who orders, and who only has Redis."""

    trainer: Fleet
    operator: Fleet
    stranger: Fleet  #: may write to Redis and the store, and has no key that counts
    folder: Path
    cache: ModelCache

    def file(self, value: float) -> Path:
        path = self.folder / f"{value}.safetensors"
        save_file({"weight": torch.eye(2) * value, "bias": torch.zeros(2)}, path)
        return path

    def publish(self, value: float, fleet: Fleet | None = None, **more: Any) -> Flip:
        return (fleet or self.trainer).publish("m", self.file(value), timeout=20, **more)

    def answer(self, cache: ModelCache | None = None) -> tuple[float, bool]:
        """What a request is answered, and whether that is marked stale."""
        view = (cache or self.cache).get("m")
        return float(view.payload(torch.ones(1, 2))[0, 0]), view.stale

    def manifest(self, generation: int) -> Manifest:
        found = self.trainer.registry.generations("m", [generation])[generation][0]
        assert found is not None
        return decode(found)

    def propose(self, manifest: Manifest) -> str:
        """What a stranger's proposal of it was rejected for."""
        registry = self.stranger.registry
        registry.ask(Lock("m", "take", "token", "{}", 5000))
        call = Propose("m", manifest.version[:6] + str(time.monotonic_ns()), "token", manifest.version, manifest.poison,
                       manifest.encode(), 1.0, 20_000, "stranger", now=True)  # fmt: skip
        assert registry.ask(call).verdict == "ok"
        until = time.monotonic() + 10
        while (answer := registry.ask(Read("m", call.request)).answer) is None or answer.state in ("candidate", "next"):
            assert time.monotonic() < until
        assert (answer.state, answer.step) == ("rejected", "signature"), answer
        return answer.why

    def write_active(self, manifest: Manifest, generation: int) -> None:
        """What stands in Redis as active, written there by hand."""
        with redis.Redis.from_url(str(self.trainer.settings.redis_url)) as client:
            record = json.loads(client.hget("genlock:{t}:models", "m") or b"")  # type: ignore[arg-type]
            record["rev"] = str(int(record["rev"]) + 100)
            record["next"] = str(generation + 1)
            record["active"] |= {"gen": str(generation), "version": manifest.version, "poison": manifest.poison}
            # A worker that read in between would know the new revision already, and never look for what has it.
            with client.pipeline() as together:
                together.hset("genlock:{t}:fleet", "revision", record["rev"])
                together.hset("genlock:{t}:generations", f"m\0{generation}\0m", manifest.encode())
                together.hset("genlock:{t}:models", "m", json.dumps(record))
                together.execute()

    def figures(self) -> dict[str, Any]:
        return self.cache.get_detailed_stats()["models"]["m"]["refused"]  # type: ignore[no-any-return]


@pytest.fixture
def worker(new_fleet: Any, new_cache: NewCache) -> Callable[..., ModelCache]:
    """worker(operators=False): a worker that believes the trainer, and the operator if it is asked to."""

    def make(
        *, operators: bool = False, operator: KeyPair = OPERATOR, keys: tuple[KeyPair, ...] = (TRAINER,)
    ) -> ModelCache:
        operator_keys = (operator.public.text,) if operators else ()
        chosen = Settings(verify_keys=tuple(key.public.text for key in keys), operator_keys=operator_keys)
        return new_cache(fleet=new_fleet(settings=chosen))

    return make


@pytest.fixture
def stand(new_fleet: Any, worker: Any, tmp_path: Path) -> Callable[..., Stand]:
    """stand(operators=False): a fleet with one worker that holds "m", which multiplies by 1."""

    def make(*, operators: bool = False) -> Stand:
        trainer, operator = (new_fleet(settings=Settings(signing_key=key.text)) for key in (TRAINER, OPERATOR))
        made = Stand(trainer, operator, new_fleet(), tmp_path, worker(operators=operators))
        made.publish(1.0)
        assert made.answer() == (1.0, False)
        return made

    return make


def test_a_candidate_that_nobody_vouches_for_is_rejected_at_once_and_not_remembered(stand: Any) -> None:
    """Whoever may write to Redis proposed good bytes unsigned: poisoned, the trainer could not have published them any more."""
    one = stand()
    began = time.monotonic()
    with pytest.raises(FlipRejected, match="is not signed") as caught:
        one.publish(2.0, one.stranger)
    assert caught.value.step == "signature" and time.monotonic() - began < 15, "nobody waits for the deadline"
    assert one.answer() == (1.0, False), "the lease went on"
    assert one.publish(2.0).outcome == "committed", "the same bytes, signed"
    assert one.answer() == (2.0, False)


def test_each_kind_of_manifest_that_is_refused_says_why(stand: Any, tmp_path: Path) -> None:
    one = stand()
    first = one.manifest(1)
    one.publish(2.0)
    second = one.manifest(2)
    assert (second.way_back, second.serial > first.serial > 10**15) == (first.version, True)

    fleet_id = one.trainer.identity.fleet_id
    stranger = Signer(Keyring(STRANGER), fleet_id, tmp_path / "elsewhere")
    foreign = Signer(Keyring(TRAINER), "f" * 32, tmp_path / "elsewhere")
    assert "which is none of GENLOCK_VERIFY_KEYS" in one.propose(stranger.published(second, None))
    assert "is signed for fleet ffff" in one.propose(foreign.published(second, None))
    assert "somebody changed it" in one.propose(msgspec.structs.replace(second, message="better"))
    assert f"has serial {first.serial}, and {second.serial} was active" in one.propose(first)
    other = Signer(Keyring(TRAINER), fleet_id, tmp_path / "elsewhere")
    assert "is signed for model n" in one.propose(
        msgspec.structs.replace(other.published(msgspec.structs.replace(second, model="n"), None), model="n")
    )
    assert one.figures() == {
        "unknown-key": 1,
        "foreign": 2,
        "wrong-signature": 1,
        "low-serial": 1,
    }
    assert one.cache.get_detailed_stats()["models"]["m"]["last_refusal"]["reason"] == "foreign"
    assert one.trainer.model("m").poisoned == 0
    assert one.answer() == (2.0, False)


def test_an_old_manifest_written_over_what_is_active_is_never_loaded(
    stand: Any, wait_for: WaitFor, worker: Any
) -> None:
    """Somebody wrote generation 1's manifest, rightly signed, into Redis as generation 50. The worker goes on with what it verified,
    marked stale; it says why in its own words; and the next signed publish mends it."""
    one = stand()
    first = one.manifest(1)
    one.publish(2.0)
    wait_for(lambda: one.answer() == (2.0, False))
    wait_for(lambda: list(Path(one.cache.settings.state_dir).glob("serials/*/models/m.json")))
    one.write_active(first, 50)
    wait_for(lambda: one.answer() == (2.0, True), description="it answers from what it verified, marked")
    why = wait_for(lambda: "serial" in (found := one.cache.why_not_ready().get("m", "")) and found)
    assert "signature" in why
    runtime = one.cache.runtime
    assert runtime is not None
    wait_for(lambda: "it is an old one that was brought back" in runtime.last_error)

    late = worker()
    with pytest.raises(NotReady, match="an old one that was brought back"):
        one.answer(late)  # another process of this host: what was seen is on the disk
    cannot = wait_for(
        lambda: [found.why for found in look_at(one.trainer).agreement.differences if found.kind == "cannot"],
        description="`genlock top` says that it cannot load what is active",
    )
    assert len(cannot) == 1 and cannot[0].startswith("m generation 50: signature: ")
    late.close()

    assert one.publish(3.0).generation == 51
    wait_for(lambda: one.answer() == (3.0, False))
    assert runtime.last_error == ""


def test_without_operators_keys_a_rollback_is_what_redis_calls_one(stand: Any, worker: Any, wait_for: WaitFor) -> None:
    """By people without a key, too; and it is there again after the worker's restart, for which Redis is not asked a second time."""
    one = stand()
    one.publish(2.0)
    assert one.stranger.rollback("m", pin=False).generation == 3
    assert one.answer() == (1.0, False)
    assert one.publish(3.0).outcome == "committed"
    one.stranger.rollback("m", pin=False)
    wait_for(lambda: one.answer() == (1.0, False))
    wait_for(lambda: _seen(one)["back_version"] == one.manifest(1).version)
    one.cache.close()
    assert one.answer(worker()) == (1.0, False)
    assert _seen(one)["serial"] == one.manifest(4).serial, "the highest serial does not fall"


def _seen_files(one: Stand) -> list[Path]:
    """What this host's workers have written of "m": one file, once it became active."""
    return list(Path(one.cache.settings.state_dir).glob("serials/*/models/m.json"))


def _seen(one: Stand) -> dict[str, Any]:
    (path,) = _seen_files(one)
    return json.loads(path.read_text())  # type: ignore[no-any-return]


def test_with_operators_keys_a_rollback_needs_an_order(stand: Any, worker: Any, wait_for: WaitFor) -> None:
    one = stand(operators=True)
    one.publish(2.0)
    one.publish(3.0)
    with pytest.raises(FlipRejected, match="has no operator's order"):
        one.stranger.rollback("m", 1, pin=False)
    with pytest.raises(FlipRejected, match="is none of GENLOCK_OPERATOR_KEYS"):
        one.trainer.rollback("m", 1, pin=False)
    assert one.answer() == (3.0, False)

    assert one.operator.rollback("m", 1, pin=False, author="ann").generation == 6
    assert one.answer() == (1.0, False)
    order = one.manifest(6).order
    assert order is not None and (order.left, order.author, order.back_to) == (3, "ann", one.manifest(1).serial)
    wait_for(lambda: _seen(one)["serial"] == order.serial)
    one.cache.close()
    one.cache = worker(operators=True)
    assert one.answer() == (1.0, False), "the order counts again after a restart"

    # A trainer that does not know the operator's key: its clock is enough.
    assert one.publish(4.0).outcome == "committed"
    assert "was active on this host before" in one.propose(one.manifest(6)), "an order counts once"
    assert one.operator.rollback("m", 1, pin=False).outcome == "committed", "and a new one again"
    assert one.answer() == (1.0, False)


def test_a_way_back_that_the_trainer_signed_needs_no_order(stand: Any, worker: Any, wait_for: WaitFor) -> None:
    """A policy or a bad unproven generation goes back where no operator is: to what was active when the trainer published, no further."""
    one = stand(operators=True)
    one.publish(2.0)
    one.publish(3.0)
    assert one.stranger.rollback("m", 2, pin=False).outcome == "committed"
    assert one.answer() == (2.0, False)
    wait_for(lambda: _seen(one)["back_serial"] == one.manifest(2).serial)
    one.cache.close()
    one.cache = worker(operators=True)
    assert one.answer() == (2.0, False)
    with pytest.raises(FlipRejected, match="has no operator's order"):
        one.stranger.rollback("m", 1, pin=False)


def test_no_old_manifest_becomes_a_way_back(stand: Any, new_fleet: Any, tmp_path: Path, wait_for: WaitFor) -> None:
    """Somebody wrote generation 1's manifest over the active one's while a trainer published. It signed that as the way back of its own,
    and everybody could go back past generation 3 without an order."""
    one = stand(operators=True)
    one.publish(2.0)
    one.publish(3.0)
    first, third = one.manifest(1), one.manifest(3)
    known = Serials(tmp_path / "state", one.trainer.identity.fleet_id).highest_before("m")
    assert known == third.serial, "for the next trainer of this host"
    new = new_fleet(settings=Settings(signing_key=TRAINER.text), state_dir=tmp_path / "new")
    with redis.Redis.from_url(str(one.trainer.settings.redis_url)) as client:
        client.hset("genlock:{t}:generations", "m\0" + "3\0m", first.encode())
        one.publish(4.0, new)
        client.hset("genlock:{t}:generations", "m\0" + "3\0m", third.encode())
    assert one.manifest(4).way_back == ""
    wait_for(lambda: _seen(one)["serial"] == one.manifest(4).serial)
    with pytest.raises(FlipRejected, match="has no operator's order"):
        one.stranger.rollback("m", 1, pin=False)
    assert one.answer() == (4.0, False)


def test_a_way_back_past_what_was_left_is_dropped_by_workers(
    stand: Any, new_fleet: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wait_for: WaitFor
) -> None:
    """The same with a trainer on a new host, which remembers nothing and believes that generation 1 is active."""
    one = stand(operators=True)
    one.publish(2.0)
    one.publish(3.0)
    first, published = one.manifest(1), Signer.published
    monkeypatch.setattr(Signer, "published", lambda signer, made, _, known: published(signer, made, first, known))
    one.publish(4.0, new_fleet(settings=Settings(signing_key=TRAINER.text), state_dir=tmp_path / "new"))
    assert one.manifest(4).way_back == first.version
    wait_for(lambda: _seen(one)["serial"] == one.manifest(4).serial)
    with pytest.raises(FlipRejected, match="has no operator's order"):
        one.stranger.rollback("m", 1, pin=False)


def test_operators_keys_may_be_set_and_replaced_after_a_rollback(stand: Any, worker: Any, wait_for: WaitFor) -> None:
    """The order that was in it had been signed with a key that was no operator's: each worker refused what was active: 503."""
    one = stand()
    one.publish(2.0)
    assert one.trainer.rollback("m", pin=False).outcome == "committed"
    wait_for(lambda: one.answer() == (1.0, False))
    wait_for(lambda: _seen(one)["back_version"] == one.manifest(1).version)
    assert one.manifest(3).order is not None
    one.cache.close()
    one.cache = worker(operators=True)
    assert one.answer() == (1.0, False)

    one.publish(3.0)
    assert one.operator.rollback("m", 1, pin=False).outcome == "committed"
    order = one.manifest(5).order
    assert order is not None
    wait_for(lambda: _seen(one)["serial"] == order.serial)
    one.cache.close()
    one.cache = worker(operators=True, operator=STRANGER)
    assert one.answer() == (1.0, False)
    wait_for(lambda: _seen(one)["back_serial"] == one.manifest(1).serial)
    assert _seen(one)["serial"] == order.serial, "an order that does not count says no number"
    with pytest.raises(FlipRejected, match="is none of GENLOCK_OPERATOR_KEYS"):
        one.operator.rollback("m", 2, pin=False)
    one.cache.close()


def test_after_a_way_back_from_a_host_with_a_fast_clock_others_can_publish(
    stand: Any, new_fleet: Any, tmp_path: Path
) -> None:
    """The clock of who published generation 2 was ten minutes ahead. What came after the way back from it was refused by every worker."""
    one = stand()
    ahead_us = int((time.time() + 600) * 1e6)
    Serials(tmp_path / "state", one.trainer.identity.fleet_id).next(above=ahead_us, now_us=0)
    one.publish(2.0)
    assert one.manifest(2).serial > ahead_us
    assert one.stranger.rollback("m", pin=False).outcome == "committed"
    other = new_fleet(settings=Settings(signing_key=TRAINER.text), state_dir=tmp_path / "other")
    assert one.publish(3.0, other).outcome == "committed"
    assert one.manifest(4).serial == one.manifest(2).serial + 1


def test_keys_are_replaced_one_by_one(stand: Any, worker: Any) -> None:
    """Both count while one is being replaced; a key that was taken away is refused, also what it signed before."""
    one = stand()
    one.cache.close()
    one.cache = worker(keys=(TRAINER, STRANGER))
    assert one.answer() == (1.0, False)
    one.trainer.settings = replace(one.trainer.settings, signing_key=STRANGER.text)
    one.publish(2.0)
    assert one.answer() == (2.0, False)
    one.cache.close()
    one.cache = worker(keys=(STRANGER,))
    assert one.answer() == (2.0, False)
    one.trainer.settings = replace(one.trainer.settings, signing_key=TRAINER.text)
    with pytest.raises(FlipRejected, match=f"signed with key {TRAINER.public.id}"):
        one.publish(3.0)


def test_the_last_good_one_on_disk_is_looked_at_too(
    serving: Any, new_fleet: Any, new_cache: NewCache, tmp_path: Path, wait_for: WaitFor
) -> None:
    """Without Redis a worker starts from what its host keeps: an older one that somebody put there is refused."""
    (tmp_path / "own").mkdir()
    settings = Settings(signing_key=TRAINER.text, verify_keys=(TRAINER.public.text,))
    path = tmp_path / "m.safetensors"
    kept = tmp_path / "state/last_good/t/m.json"
    with serving(tmp_path / "own") as url:
        fleet = new_fleet(url=url, settings=settings)
        cache = new_cache(fleet=fleet)
        save_file({"weight": torch.eye(2), "bias": torch.zeros(2)}, path)
        fleet.publish("m", path)
        assert cache.get("m").generation == 1
        wait_for(kept.exists)
        old = kept.read_bytes()
        save_file({"weight": torch.eye(2) * 2, "bias": torch.zeros(2)}, path)
        fleet.publish("m", path)
        wait_for(lambda: kept.read_bytes() != old)
        cache.close()
    late = new_cache(fleet=new_fleet(url=url, settings=settings))
    assert (late.get("m").generation, late.get("m").stale) == (2, True)
    late.close()
    kept.write_bytes(old)
    late = new_cache(fleet=new_fleet(url=url, settings=settings))
    with pytest.raises(NotReady):
        late.get("m")
    wait_for(lambda: late.get_detailed_stats()["models"]["m"]["refused"] == {"low-serial": 1})


def test_a_host_that_cannot_say_what_it_has_seen_loads_nothing_and_decides_nothing(
    stand: Any, wait_for: WaitFor
) -> None:
    """A damaged file of serials is this host's own fault: "failed", which is tried again and counts against the agreement only."""
    one = stand()
    path = one.cache.settings.state_dir / "serials" / one.trainer.identity.fleet_id / "models/m.json"
    wait_for(path.exists)
    path.unlink()
    path.mkdir()
    with pytest.raises(FlipRejected, match="does not say which serial was seen last"):
        one.trainer.publish("m", one.file(2.0), timeout=1.5)
    assert one.answer() == (1.0, False)
    path.rmdir()
    assert one.publish(2.0).outcome == "committed"


def test_a_load_that_hangs_keeps_no_other_model_from_its_way_back(
    stand: Any, new_fleet: Any, new_cache: NewCache
) -> None:
    """The way back is loaded and only has to be examined: an emergency, in which nobody waits for another model's load."""
    one = stand()
    one.cache.close()
    loading, go_on = threading.Event(), threading.Event()

    def slow() -> Any:
        loading.set()
        assert go_on.wait(20)
        return linear()

    fleet = new_fleet(settings=Settings(verify_keys=(TRAINER.public.text,)))
    one.cache = new_cache(fleet=fleet, loaders={"m": linear, "n": slow})
    assert one.answer() == (1.0, False)
    one.publish(2.0)
    try:
        one.trainer.publish("n", one.file(3.0), wait=False)
        assert one.answer() == (2.0, False)
        one.cache.start()
        assert loading.wait(20)
        assert one.stranger.rollback("m", pin=False, timeout=10).outcome == "committed"
        assert one.answer() == (1.0, False) and not go_on.is_set()
    finally:
        go_on.set()


def test_a_fault_of_ours_is_a_failure_and_lets_nothing_in(
    stand: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The worker would wait for the answer for ever, and never ask again."""
    one = stand()

    def fault(serials: Serials, model: str) -> Any:
        raise ZeroDivisionError("a fault of ours")

    with monkeypatch.context() as patch:
        patch.setattr(Serials, "seen", fault)
        with pytest.raises(FlipRejected, match="ZeroDivisionError: a fault of ours"):
            one.trainer.publish("m", one.file(2.0), timeout=1.5)
    assert "that nobody expected" in caplog.text and one.answer() == (1.0, False)
    assert one.publish(2.0).outcome == "committed"


def test_a_state_folder_that_hangs_keeps_neither_heartbeat_nor_requests(
    stand: Any, wait_for: WaitFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was read on the thread of the heartbeat: after 3 s the worker was evicted, and requests waited for it."""
    one = stand()
    reading, go_on, seen = threading.Event(), threading.Event(), Serials.seen

    def slow(serials: Serials, model: str) -> Any:
        reading.set()
        assert go_on.wait(20)
        return seen(serials, model)

    monkeypatch.setattr(Serials, "seen", slow)
    try:
        one.trainer.publish("m", one.file(2.0), wait=False)
        assert reading.wait(20)
        is_free, runtime = threading.Event(), one.cache.runtime
        assert runtime is not None
        runtime.post(is_free.set)
        assert is_free.wait(5), "its thread goes on"
        assert one.answer() == (1.0, False)
    finally:
        go_on.set()
    wait_for(lambda: one.answer() == (2.0, False))


def test_a_thread_that_cannot_be_started_is_tried_again(
    stand: Any, worker: Any, wait_for: WaitFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container's limit of threads: the worker waited for an answer that nobody was to give, and was unready until a new epoch."""
    one = stand()
    start, failed = threading.Thread.start, list[str]()

    def refuses(thread: threading.Thread) -> None:
        if thread.name == "genlock-examines" and not failed:
            failed.append(thread.name)
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuses)
    late = worker()
    late.start()
    wait_for(lambda: "m" in late.views)
    assert failed and late.runtime.failure == ""
    assert one.answer(late) == (1.0, False)


def test_threads_do_not_gather_while_the_state_folder_hangs(
    stand: Any, wait_for: WaitFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each candidate began one more, which hung as well."""
    one = stand()
    wait_for(lambda: _seen_files(one), description="the loading thread has written what is active")
    go_on, hanging, seen = threading.Event(), list[str](), Serials.seen

    def slow(serials: Serials, model: str) -> Any:
        hanging.append(threading.current_thread().name)
        assert go_on.wait(20)
        return seen(serials, model)

    def asked(generation: int) -> bool:
        found = one.cache.runtime.agent.slots["m"].examining  # type: ignore[union-attr]
        return found is not None and found.gen == generation

    with monkeypatch.context() as patch:
        patch.setattr(Serials, "seen", slow)
        try:
            for generation in (2, 3, 4):
                with pytest.raises(FlipRejected):
                    one.trainer.publish("m", one.file(float(generation)), timeout=0.5)
                wait_for(partial(asked, generation))
            assert hanging == ["genlock-examines"]
            assert [thread.name for thread in threading.enumerate()].count("genlock-examines") == 1
        finally:
            go_on.set()
    assert one.publish(5.0).outcome == "committed"
    assert one.answer() == (5.0, False)


def test_a_refusal_of_what_was_dropped_meanwhile_is_no_fault(
    stand: Any, wait_for: WaitFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stayed as what is wrong with the worker until the model was loaded anew, which nobody wanted."""
    one = stand()
    begun, go_on, check = threading.Event(), threading.Event(), trust.check_signature

    def slow(*a: Any, **keywords: Any) -> None:
        begun.set()
        assert go_on.wait(20)
        check(*a, **keywords)

    monkeypatch.setattr(trust, "check_signature", slow)
    try:
        one.stranger.publish("m", one.file(2.0), wait=False)
        assert begun.wait(20)
        one.cache.invalidate("m")
    finally:
        go_on.set()
    wait_for(lambda: one.figures() == {"unsigned": 1}, description="it is counted all the same")
    assert one.cache.runtime is not None and one.cache.runtime.last_error == ""


def test_what_became_active_is_written_when_it_can_be(
    stand: Any,
    new_fleet: Any,
    tmp_path: Path,
    wait_for: WaitFor,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A trainer of this host was stopped while it had the lock: it was tried once, and after a restart an older manifest was let in."""
    one = stand()
    wait_for(lambda: _seen_files(one))
    (lock,) = Path(one.cache.settings.state_dir).glob("serials/*/lock")
    monkeypatch.setattr(serials, "MAX_WAIT_S", 0.05)
    monkeypatch.setattr(unwritten, "RETRY_FROM_S", 0.01)
    # Of another host, or the trainer would wait for the lock as well.
    trainer = new_fleet(settings=Settings(signing_key=TRAINER.text), state_dir=tmp_path / "other")
    with locked([lock], lambda: True):
        one.publish(2.0, trainer)
        assert one.answer() == (2.0, False)
        wait_for(lambda: caplog.text.count("what became active is not written down") > 1, description="a second try")
        assert _seen(one)["serial"] == one.manifest(1).serial
    wait_for(lambda: _seen(one)["serial"] == one.manifest(2).serial)


def test_who_cannot_sign_hears_of_it_before_the_work(new_fleet: Any, tmp_path: Path) -> None:
    """The verify keys of a process say that its own publish would be refused."""
    path = tmp_path / "m.safetensors"
    save_file({"weight": torch.eye(2)}, path)
    keys = (TRAINER.public.text,)
    with pytest.raises(Unsigned, match="GENLOCK_SIGNING_KEY"):
        new_fleet(settings=Settings(verify_keys=keys)).publish("m", path)
    with pytest.raises(UnknownKey, match=STRANGER.public.id):
        new_fleet(settings=Settings(verify_keys=keys, signing_key=STRANGER.text)).publish("m", path)
    with pytest.raises(WrongSignature):
        fleet = new_fleet(settings=Settings(verify_keys=keys, signing_key=TRAINER.text))
        fleet.publish("m", path)
        save_file({"weight": torch.eye(2) * 2}, path)
        fleet.publish("m", path)
        found = fleet.registry.generations("m", [1])[1][0]
        with redis.Redis.from_url(str(fleet.settings.redis_url)) as client:
            changed = msgspec.structs.replace(decode(found), message="changed")
            client.hset("genlock:{t}:generations", "m\0" + "1\0m", changed.encode())
        fleet.rollback("m", 1)  # an operator does not order to go back to what somebody has changed
    assert issubclass(WrongSignature, NotTrusted)
