"""The loop: looks, lets files settle, has them published, each model by itself.

One thread looks and decides; each publish has a thread of its own with a low priority, so that one model's trouble (a lock that is held,
a flip that takes its time) never stops the others. What was found wrong is said once for each cause, and tried again with growing
pauses; files that have changed by then are taken as they are then.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from queue import SimpleQueue
from typing import Any

from ..clock import clock
from ..errors import ArtifactMissing, GenlockError, OutcomeUnknown
from ..filesystem import kind_of
from ..fleet import Fleet
from ..manifest import is_name
from ..priority import low_priority
from ..settings import Settings
from .attempts import Attempts, is_final
from .memory import Memory
from .notice import POLL_S, Notice
from .offer import ChangedMeanwhile, InWork, Offer, Offered, Settled
from .settling import SETTLED_ELSEWHERE_S, SETTLED_S, FileIdentity, Idle, Settling, Take, Wait
from .sources import File, Found, Sources
from .writers import is_open_for_writing

_log = logging.getLogger("genlock.watch")

#: Models that are published at the same time: each takes a connection, and reads and writes at the disk's pace.
PUBLISHES = 8
#: Seconds that publishes in work get to come to their end when the watcher is stopped; what was proposed goes on in the fleet.
END_S = 2.0

#: Seconds that one look gives files to settle: longer than any that do not change take.
ONCE_S = SETTLED_ELSEWHERE_S + 2.0

#: The id of a publish, and of which files: with others it would be another one, and the answer to it that of the first.
_Request = tuple[str, dict[str, Settled]]
#: What a publish came to, and of which files.
_Result = tuple[str, dict[str, Settled], "Offered | Exception"]


@dataclass
class _Track:
    """One model. Only the thread that looks uses it."""

    settling: Settling
    attempts: Attempts = field(default_factory=Attempts)
    artifacts: frozenset[str] = frozenset()  # that it had when it was taken last, where no pattern says
    unknown: _Request | None = None  # of a publish whose outcome is unknown
    thread: threading.Thread | None = None
    missing: tuple[str, ...] = ()  # what was said to be waited for
    outcome: Offered | Exception | None = None  # of the last publish
    has_ended: bool = False  # one has come to its end, which was said
    files: dict[str, File] = field(default_factory=dict)


class Watcher:
    """Publishes what changes among `sources`, from `run` to `stop`. `notices`: whether the kernel is asked to tell; else the clock looks,
    once in POLL_S. `note`: who notices, for the message of what is published."""

    def __init__(self, settings: Settings, sources: Sources, *, note: str, notices: bool = True) -> None:
        self._settings, self._sources, self._note = settings, sources, note
        self._memory = Memory(settings.state_dir, settings.fleet)
        self._wake, self._stopped = threading.Event(), threading.Event()
        self._noticed = False  # that something changed; set by the thread of the notice
        self._notice = Notice(self._told, sources.concerns) if notices else None
        self._tracks: dict[str, _Track] = {}
        self._results: SimpleQueue[_Result] = SimpleQueue()
        self._said: dict[str, str] = {}  # oddities
        self._waited_for: set[str] = set()  # what was said not to be there yet
        self._found = Found()  # by the last look
        self._tells = True  # whether outcomes are said here; those of one look are told by whoever asked for it
        self._next = float("-inf")  # when to look again

    # --- for other threads -------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Makes `run` return soon."""
        self._stopped.set()
        self._wake.set()

    def _told(self) -> None:
        self._noticed = True
        self._wake.set()

    # --- the thread --------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Until `stop`."""
        try:
            while not self._stopped.is_set():
                try:
                    self._turn()
                except Exception:  # it must be seen, and must not end the watch
                    _log.exception("a fault of ours; the watch goes on", extra=self._facts("fault", None))
                    self._next = clock() + POLL_S
                self._pause(self._next)
        finally:
            self._end()

    def once(self) -> list[Offered | tuple[str, Exception]]:
        """One look: what has become of each model that has files, and what can become of nothing (outcome odd). Files that change while it
        looks are left for the next time."""
        until = clock() + ONCE_S
        self._tells = False
        try:
            while not self._stopped.is_set():
                self._turn()
                waiting = [track for track in self._tracks.values() if track.outcome is None and not track.missing]
                working = [track for track in self._tracks.values() if track.thread is not None]
                if not working and (not waiting or clock() >= until):
                    break
                self._pause(self._next if working else min(self._next, until))  # the end of work wakes
        finally:
            self._end()
        outcomes = [self._outcome_of(model, track) for model, track in self._tracks.items()]
        return sorted(
            [*self._odd(), *outcomes], key=lambda one: (one[0] if isinstance(one, tuple) else one.model) or ""
        )

    def _turn(self) -> None:
        """Takes what publishes came to, and looks if it is time."""
        self._wake.clear()
        while not self._results.empty():
            self._take(*self._results.get())
        if self._noticed or clock() >= self._next:
            self._noticed = False
            self._look()

    def _pause(self, until: float) -> None:
        if not self._stopped.is_set():
            self._wake.wait(max(0.0, until - clock()))

    def _end(self) -> None:
        """No more looks; publishes in work get a moment."""
        if self._notice is not None:
            self._notice.close()
        until = clock() + END_S
        for track in self._tracks.values():
            if track.thread is not None:
                track.thread.join(max(0.0, until - clock()))

    # --- looking -----------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        self._found = found = self._sources.look()
        self._say(found)
        for model in found.files.keys() - self._tracks.keys():
            self._tracks[model] = self._new_track(model, found)
        now = clock()
        dues = [self._see(model, track, found, now) for model, track in list(self._tracks.items())]
        self._next = min([now + self._poll_s(found), *dues])
        if self._notice is None:
            self._next = max(self._next, now + POLL_S)  # the clock alone: no file is asked for more often

    def _poll_s(self, found: Found) -> float:
        if self._notice is None or not self._tells:  # one look waits for files to settle, not for others
            return POLL_S
        paths = [file.path for parts in found.files.values() for file in parts.values() if file.path is not None]
        return self._notice.follow(found.folders, [path.resolve() for path in paths if path.is_symlink()])

    def _new_track(self, model: str, found: Found) -> _Track:
        paths = [file.path for file in found.files[model].values() if file.path is not None]
        where = ", ".join(map(str, paths))
        _log.info("model %s is %s", model, where, extra=self._facts("found", model, files=where))
        is_local = all(kind_of(path).is_local for path in paths)
        track = _Track(Settling(SETTLED_S if is_local else SETTLED_ELSEWHERE_S))
        if model in found.open_sets:
            track.artifacts = frozenset(self._memory.read(model).files)
        return track

    def _see(self, model: str, track: _Track, found: Found, now: float) -> float:
        """What is to be done about one model, done; when to look at it again."""
        parts = found.files.get(model, {})
        known = track.artifacts if model in found.open_sets or not parts else frozenset()
        track.files = dict.fromkeys(known, File(None, None)) | parts
        seen = {name: file.identity for name, file in track.files.items()}
        verdict = track.settling.saw(seen, now)
        self._say_missing(model, track, verdict)
        if track.thread is not None:
            return float("inf")  # its end wakes us
        if isinstance(verdict, Take):
            if now < track.attempts.due:
                return track.attempts.due
            verdict = self._begin(model, track, now)
        return verdict.until if isinstance(verdict, Wait) else float("inf")

    def _begin(self, model: str, track: _Track, now: float) -> Wait | Idle:
        """Has the files published, unless somebody writes."""
        if sum(other.thread is not None for other in self._tracks.values()) >= PUBLISHES:
            return Wait(now + POLL_S)
        files = {
            name: Settled(path, identity)
            for name, (path, identity) in track.files.items()
            if path is not None and identity is not None
        }
        for file in files.values():
            if is_open_for_writing(file.path, is_local=kind_of(file.path).is_local):
                _log.debug("%s is open for writing", file.path, extra=self._facts("writing", model))
                return track.settling.is_written(now)
        if track.unknown is None or track.unknown[1] != files:
            track.unknown = uuid.uuid4().hex, files
        work = partial(self._publish, model, files, track.unknown[0])
        thread = threading.Thread(target=work, name=f"genlock-publish-{model}", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # as many threads as the user may have
            track.outcome = error
            self._failed(model, track, error, now)
            return Wait(track.attempts.due)
        track.thread = thread  # not before it runs: what has not begun has no end that could be waited for
        return Idle()

    # --- publishing, on a thread of its own --------------------------------------------------------------------------

    def _publish(self, model: str, files: dict[str, Settled], request: str) -> None:
        low_priority()
        try:
            with Fleet(settings=self._settings) as fleet:
                offer = Offer(model, files, fleet=fleet, memory=self._memory, note=self._note)
                result: Offered | Exception = offer.make(request)
        except Exception as error:  # whatever it is, it is this model's alone
            result = error
        self._results.put((model, files, result))
        self._wake.set()

    # --- what became of it -------------------------------------------------------------------------------------------

    def _take(self, model: str, files: dict[str, Settled], result: Offered | Exception) -> None:
        track = self._tracks[model]
        if track.thread is not None:
            track.thread.join()
            track.thread = None
        now, seen = clock(), {name: file.identity for name, file in files.items()}
        self._next = now if self._notice is not None else self._next  # it may have changed meanwhile
        track.unknown = track.unknown if isinstance(result, OutcomeUnknown) else None
        is_gone = isinstance(result, ArtifactMissing) and result.path in {str(file.path) for file in files.values()}
        if is_gone or isinstance(result, ChangedMeanwhile):  # another missing file is the store's
            track.settling.is_written(now)
            return
        is_first, track.outcome = track.outcome is None, result
        if isinstance(result, Offered):
            self._say_offered(model, result, is_news=not track.has_ended)
            self._ended(track, seen)
        elif is_final(result):
            self._ended(track, seen)
            self._warn(model, result, "refused", "Not published before it changes again")
        elif isinstance(result, InWork):
            track.attempts.failed(result, now)
            level = logging.INFO if is_first and self._tells else logging.DEBUG
            _log.log(level, "model %s: %s", model, result, extra=self._facts("retrying", model))
        else:
            self._failed(model, track, result, now)

    def _ended(self, track: _Track, seen: dict[str, FileIdentity]) -> None:
        track.settling.taken(seen)
        track.attempts.ended()
        track.artifacts = frozenset(seen)
        track.has_ended = True

    def _failed(self, model: str, track: _Track, error: Exception, now: float) -> None:
        if not track.attempts.failed(error, now):
            _log.debug("model %s: %s", model, error, extra=self._facts("retrying", model))
            return
        if not isinstance(error, GenlockError):
            _log.error("model %s: a fault of ours", model, exc_info=error, extra=self._facts("fault", model))
        self._warn(model, error, "retrying", "Tried again with growing pauses, until it succeeds or the file changes")

    def _outcome_of(self, model: str, track: _Track) -> Offered | tuple[str, Exception]:
        if isinstance(track.outcome, InWork):
            return Offered(model=model, outcome=InWork.outcome, why=str(track.outcome))
        if isinstance(track.outcome, Exception):
            return model, track.outcome
        if track.outcome is not None:
            return track.outcome
        if track.missing:
            return Offered(model=model, outcome="missing", why=f"waiting for {', '.join(track.missing)}")
        return _changing(model)

    def _odd(self) -> Iterator[Offered]:
        """What the last look has found that is no checkpoint; an empty file that somebody has just made may become one."""
        found, known = self._found, self._tracks.keys()
        for subject, sentence in found.oddities.items():
            yield _odd(subject, sentence)
        for subject, path in found.absent.items():
            if subject not in known:
                yield _odd(subject, f"{path} is not there")
        for model, path in found.empty.items():
            if model not in known:
                is_open = is_open_for_writing(path, is_local=kind_of(path).is_local)
                yield _changing(model) if is_open else _odd(model, f"{path} is empty")

    # --- saying it ---------------------------------------------------------------------------------------------------

    def _say(self, found: Found) -> None:
        for subject, sentence in found.oddities.items():
            if self._tells and self._said.get(subject) != sentence:
                _log.warning("%s", sentence, extra=self._facts("odd", None, why=sentence))
        self._said = found.oddities
        for subject, path in found.absent.items():  # once: a job may remove what it writes anew
            if self._tells and subject not in self._waited_for | self._tracks.keys():
                _log.info("%s is not there yet: waited for", path, extra=self._facts("waiting", None, files=str(path)))
        self._waited_for |= found.absent.keys()

    def _say_missing(self, model: str, track: _Track, verdict: Idle | Wait | Take) -> None:
        missing = verdict.missing if isinstance(verdict, Idle) else ()
        is_news = len(missing) < len(track.files) or track.outcome is None  # a file that is removed, some time, is none
        if missing and missing != track.missing and is_news:
            names = ", ".join(str(track.files[name].path or name) for name in missing)
            _log.info("model %s: waiting for %s", model, names, extra=self._facts("waiting", model, artifacts=names))
        track.missing = missing

    def _say_offered(self, model: str, offered: Offered, *, is_news: bool) -> None:
        facts = {"generation": offered.generation, "version": offered.version}
        if not self._tells:
            return
        if offered.outcome == "unchanged":
            level, extra = logging.INFO if is_news else logging.DEBUG, self._facts("unchanged", model, **facts)
            _log.log(level, "model %s: nothing to publish, %s", model, offered.why, extra=extra)
            return
        sentence = "model %s: generation %s (%s) is %s"
        version = (offered.version or "")[:12]
        extra = self._facts("published", model, outcome=offered.outcome, **facts)
        _log.info(sentence, model, offered.generation, version, offered.outcome, extra=extra)

    def _warn(self, model: str, error: Exception, event: str, then: str) -> None:
        outcome = error.outcome if isinstance(error, GenlockError) else "failed"
        why = str(error) or type(error).__name__
        facts = self._facts(event, model, outcome=outcome, why=why)
        whose = "" if f"model {model!r}" in why else f"model {model}: "
        if self._tells:
            _log.warning("%s%s. %s", whose, why.rstrip("."), then, extra=facts)

    def _facts(self, event: str, model: str | None, **more: Any) -> dict[str, Any]:
        """For `extra` of a log line: see coordinator.logs."""
        return {"event": event, "fleet": self._settings.fleet, "model": model, **more}


def _changing(model: str) -> Offered:
    return Offered(model=model, outcome="changing", why="it changes, or somebody has it open for writing")


def _odd(subject: str, why: str) -> Offered:
    return Offered(model=subject if is_name(subject) else None, outcome="odd", why=why)
