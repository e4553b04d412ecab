"""worker/healing.py: what is given back, to whom and how often. When the fleet needs it is tested with the agent."""

from __future__ import annotations

from genlock.coordinator.calls import Heal, Reopen
from genlock.coordinator.reply import Active, State
from genlock.worker.healing import Healing
from genlock.worker.slot import Slot


def slot_of(model: str = "m", *, gen: int = 2, manifest: bool = True) -> Slot:
    """It was told that generation."""
    slot = Slot(model, None)
    if manifest:
        slot.manifests[gen, f"v{gen}"] = "text"
    slot.apply(State(1, "idle", Active(gen, f"v{gen}", 1)), 1, is_open=True)
    return slot


def healing_of(*slots: Slot) -> Healing:
    healing = Healing()
    for slot in slots:
        healing.remember(slot)
    return healing


def test_a_closed_fleet_is_given_back_what_is_known_once_in_an_epoch() -> None:
    """Also of a model that is not held any more; not what nobody has the manifest of."""
    healing = healing_of(slot_of("a"), slot_of("b", manifest=False), slot_of("c"))
    healed = []
    while call := healing.due({}, is_open=False, is_read=True):
        assert isinstance(call, Heal) and (call.gen, call.version, call.manifest) == (2, "v2", "text")
        healed.append(call.model)
        healing.healed(call.model)
    assert healed == ["a", "c"]
    healing.new_epoch()
    assert healing.due({}, is_open=False, is_read=True) is not None


def test_an_open_fleet_is_reopened_where_it_is_behind() -> None:
    slot = slot_of()
    healing = healing_of(slot)
    assert healing.due({"m": slot}, is_open=True, is_read=True) is None
    slot.apply(State(2, "idle", Active(1, "v1", 1)), 1, is_open=True)
    healing.remember(slot)
    call = healing.due({"m": slot}, is_open=True, is_read=True)
    assert isinstance(call, Reopen) and (call.gen, call.version) == (2, "v2"), "never back"
    assert healing.due({"m": slot}, is_open=True, is_read=False) is None, "what is not read yet may show that it is not"
    assert healing.due({}, is_open=True, is_read=True) is None, "it is not held"
