"""Board: all that was heard so far, for whoever shows it. Pure: times are handed in."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from .history import Accuracy, Latency
from .news import Connected, News, Published, Publishing, Request, Trained

#: Seconds of requests that the live figures are of.
RECENT_S = 5.0


@dataclass(frozen=True)
class Plan:
    """What is to be shown: for how long, and by how many."""

    seconds: float
    workers: int
    clients: int
    epochs: int

    @property
    def title(self) -> str:
        """In one line."""
        return (
            f"{self.workers} gunicorn workers, {self.clients} keep-alive clients, one training job, {self.seconds:g} s"
        )


@dataclass
class Board:
    """Written by the director alone."""

    plan: Plan
    began: float  #: when the demo began
    start: float | None = None  #: when its `plan.seconds` began
    now: str = ""  #: what goes on
    connected: int = 0  #: client connections that have a worker
    requests: list[Request] = field(default_factory=list)
    published: list[Published] = field(default_factory=list)
    trained: dict[int, Trained] = field(default_factory=dict)
    accuracies: dict[int, Accuracy] = field(default_factory=dict)
    generations: dict[str, int] = field(default_factory=dict)  #: worker → that of its last answer
    errors: int = 0
    stale: int = 0
    notes: list[tuple[float, str]] = field(default_factory=list)  #: what happened, and when
    _ends: dict[str, float] = field(default_factory=dict)  #: worker → when its last answer ended
    _recent: deque[Request] = field(default_factory=deque)

    def note(self, text: str, now: float) -> None:
        """Something happened."""
        self.notes.append((now - self.began, text))
        self.now = text

    def hear(self, news: News, now: float) -> None:
        """One of the processes tells something."""
        match news:
            case Request():
                self._count(news)
            case Connected():
                self.connected += news.connections
            case Trained():
                self.trained[news.epoch] = news
                self.now = (
                    f"epoch {news.epoch} is trained: the trainer reads {news.accuracy:.1%} of the held-out digits"
                )
            case Publishing():
                self.now = f"publishing: {news.what}"
            case Published():
                self.published.append(news)
                self.note(told(news), now)

    def _count(self, request: Request) -> None:
        self.requests.append(request)
        self._recent.append(request)
        self.errors += bool(request.error)
        self.stale += request.stale
        if request.generation:
            before = self.accuracies.get(request.generation, Accuracy())
            self.accuracies[request.generation] = before.counting(request.correct)
            if request.end >= self._ends.get(request.worker, request.end):  # two processes tell of it, in batches
                self._ends[request.worker] = request.end
                self.generations[request.worker] = request.generation

    def recent(self, now: float) -> tuple[float, Latency]:
        """Requests per second, and latency, of the last seconds."""
        while self._recent and self._recent[0].end < now - RECENT_S:
            self._recent.popleft()
        since = min((r.start for r in self._recent), default=now)
        passed = max(now - since, 1.0)
        return len(self._recent) / passed, Latency.of(self._recent)

    @property
    def committed(self) -> list[Published]:
        """What became active, in order."""
        return [p for p in self.published if p.outcome == "committed"]

    @property
    def numbered(self) -> list[Published]:
        """What got a generation, committed or not, in order."""
        return [p for p in self.published if p.generation]

    @property
    def kept_out(self) -> list[Published]:
        """What did not."""
        return [p for p in self.published if p.outcome != "committed"]

    def passed(self, now: float) -> float:
        """Seconds of the plan that are over."""
        return 0.0 if self.start is None else min(self.plan.seconds, max(0.0, now - self.start))


def told(news: Published) -> str:
    """What became of a publish, as a line."""
    if news.outcome != "committed":
        return f"{news.what}: {news.outcome} by {news.worker} ({news.step}): {news.why}"
    if not news.workers:
        return f"{news.what} is generation {news.generation}; nobody holds the model yet"
    phases = ", ".join(f"{name} {news.seconds[name] * 1000:.0f}" for name in PHASES if name in news.seconds)
    return f"{news.what} is generation {news.generation}: {news.workers} workers changed together ({phases} ms)"


#: Phases of a flip, in the order of their time.
PHASES = ("stage", "prepare", "fence", "total")
