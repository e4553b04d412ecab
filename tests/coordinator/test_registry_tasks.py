"""Tasks: what every worker does once, fleet-wide (clear, refresh), and who did not answer."""

from typing import Any

from genlock.coordinator.calls import Ask, Evict, Heartbeat, Leave, Open, Settle, StartTask, TaskDone
from genlock.coordinator.reply import Task


def start(bench: Any, request: str = "t", *, kind: str = "clear", model: str = "", timeout_ms: int = 60_000) -> Any:
    return bench.ask(StartTask(request, kind, model, timeout_ms, "me"))


def test_a_clear_asks_every_member(bench: Any) -> None:
    """Each hears of it with its next reply, does it once, and says so; the last answer ends it."""
    first, second = bench.holders(2)
    other = bench.join()
    with bench.listening() as heard:
        reply = start(bench)
        assert heard() == [f"{bench.epoch.number} {reply.revision} "]
    assert (reply.verdict, reply.awaited, reply.tasks) == ("ok", 3, {reply.task: Task("clear")})
    assert bench.ask(Heartbeat(other, 0)).tasks == {reply.task: Task("clear")}
    for member in (first, second, other):
        assert bench.ask(TaskDone(member, reply.task, member != second, {"worker": f"h:{member}"})).verdict == "ok"
    assert bench.registry.task_answers(reply.task) == {
        first: ("done", {"worker": "h:1"}),
        second: ("failed", {"worker": "h:2"}),
        other: ("done", {"worker": "h:3"}),
    }
    event = bench.registry.log(newest=1)[0]
    assert event.what == "task" and event.facts == {
        "task": reply.task,
        "kind": "clear",
        "done": 2,
        "failed": 1,
        "silent": 0,
    }


def test_a_refresh_asks_the_holders(bench: Any) -> None:
    (holder,) = bench.holders(1)
    other = bench.join()
    reply = start(bench, kind="refresh", model="digits")
    assert reply.awaited == 1 and reply.tasks == {reply.task: Task("refresh", "digits")}
    bench.ask(TaskDone(other, reply.task, True))
    assert set(bench.registry.task_answers(reply.task)) == {holder}, "who was not asked has no answer"


def test_r10_a_task_started_twice_is_one(bench: Any) -> None:
    bench.holders(1)
    first = start(bench)
    again = start(bench)
    assert (again.task, again.awaited, again.revision) == (first.task, 1, first.revision)
    bench.ask(TaskDone("1", first.task, True))
    again = start(bench)
    assert (again.task, again.awaited) == (first.task, 1), "as many as were asked, also when it is over"
    assert start(bench, "another").task != first.task


def test_r10_a_request_is_of_one_task(bench: Any) -> None:
    """A refresh, or a clear of another model, under the id of a clear was told as done, and nobody was asked."""
    bench.holders(1)
    first = start(bench, model="digits")
    for other in ({"kind": "refresh", "model": "digits"}, {"model": "letters"}, {"model": ""}):
        reply = start(bench, **other)
        assert (reply.verdict, reply.found, reply.task) == ("reused", "clear of digits", None)
    assert start(bench, model="digits").task == first.task
    start(bench, "all")
    assert start(bench, "all", model="digits").found == "clear of all models"


def test_a_task_says_who_wanted_it_and_why(bench: Any) -> None:
    """Each change stands in the log with who, why and when; of these two nobody could say why."""
    bench.ask(StartTask("t", "clear", "", 60_000, "alice", "a bad copy"))
    bench.ask(StartTask("u", "clear", "", 60_000, "bob"))
    started = [event.facts for event in bench.registry.log(newest=10) if event.what == "task-started"]
    assert [(facts["by"], facts.get("why")) for facts in started] == [("alice", "a bad copy"), ("bob", "")]


def test_r10_an_answer_to_a_task_counts_once(bench: Any) -> None:
    """Twice, after it was over, of an unknown task, or of nobody: nothing."""
    first, second = bench.holders(2)
    task = start(bench).task
    for ok in (True, True, False):
        bench.ask(TaskDone(first, task, ok))
    bench.ask(TaskDone(first, "99", True))
    bench.ask(TaskDone("77", task, True))
    bench.ask(TaskDone(second, task, False))
    assert bench.log().count("task") == 1
    assert bench.registry.log(newest=1)[0].facts["done"] == 1
    bench.ask(TaskDone(second, task, True))
    assert bench.log().count("task") == 1


def test_a_task_without_anybody_to_ask_is_over_at_once(bench: Any) -> None:
    assert start(bench).awaited == 0
    assert bench.log()[-2:] == ["task-started", "task"]


def test_who_is_gone_is_not_waited_for_by_a_task(bench: Any) -> None:
    """By leave and by eviction; a member that comes after the start was not asked."""
    first, second, third = bench.holders(3)
    task = start(bench).task
    bench.ask(Leave(first))
    bench.ask(Evict(second, bench.field("members", second).decode()))
    bench.join()
    bench.ask(TaskDone(third, task, True))
    assert bench.log()[-1] == "task"
    assert set(bench.registry.task_answers(task)) == {third}


def test_r8_a_task_has_a_deadline(bench: Any) -> None:
    """A worker hangs: at the deadline the task is over, and says how many were silent."""
    first, _ = bench.holders(2)
    task = start(bench, timeout_ms=1).task
    bench.ask(TaskDone(first, task, True))
    if bench.kind == "inprocess":
        bench.client.server.now_s += 1
    bench.until(lambda: bench.ask(Heartbeat(first, 1)).due)
    bench.ask(Settle())
    event = bench.registry.log(newest=1)[0]
    assert (event.what, event.facts["done"], event.facts["silent"]) == ("task", 1, 1)
    assert bench.ask(Ask(first, ())).tasks == {}, "nobody begins it any more"
    assert bench.registry.task_answers(task)[first] == ("done", {}), "what it found stays for who asked"
    assert not bench.ask(Heartbeat(first, 1)).due


def test_r8_what_a_task_found_goes_after_a_minute(bench: Any) -> None:
    """Its answers with it; a task that runs is not touched."""
    (member,) = bench.holders(1)
    old, running = start(bench, "old").task, start(bench, "running").task
    bench.ask(TaskDone(member, old, True))
    fleet = bench.row("fleet")[b"tasks"].decode()
    ended = bench.registry.snapshot().tasks[old]["ended"]
    bench.raw("HSET", "fleet", "tasks", fleet.replace(ended, str(int(ended) - 60_001)))
    bench.ask(Settle())
    assert set(bench.ask(Ask(member, ())).tasks) == {running}
    assert bench.registry.task_answers(old) == {} and len(bench.registry.task_answers(running)) == 1
    assert start(bench, "old").task not in (old, running)


def test_a_fleet_runs_so_many_tasks_at_a_time(bench: Any) -> None:
    """16; those that are over do not count, and one that runs can be asked for."""
    (member,) = bench.holders(1)
    tasks = [start(bench, f"t{n}") for n in range(16)]
    assert {task.verdict for task in tasks} == {"ok"}
    assert start(bench, "one more").verdict == "busy"
    assert start(bench, "t3").task == tasks[3].task
    bench.ask(TaskDone(member, tasks[5].task, True))
    assert start(bench, "one more").verdict == "ok"


def test_r6_tasks_end_with_their_epoch(bench: Any) -> None:
    """Nobody is a member any more: the answers of before are of nobody."""
    (member,) = bench.holders(1)
    task = start(bench).task
    bench.lose("members")
    assert bench.ask(TaskDone(member, task, True)).tasks == {}
    assert start(bench).verdict == "closed"
    bench.ask(Open())
    assert start(bench).verdict == "ok"
