"""Whether the page stays live with a large fleet: `pytest tests/browser/test_scale.py -s` prints the figures."""

import math

import pytest
from browser.conftest import Visitors
from playwright.sync_api import Page, expect

#: What an update may take until it is drawn, milliseconds; the frame that it waits for is in it.
MOST_MS = 100.0
#: Rounds of each change at least, and at most: what else runs on the machine makes a round longer, and none shorter.
ROUNDS, MOST_ROUNDS = 5, 60

#: Every worker sends new figures, and a candidate is in work: more than a second of a busy fleet at once.
REPORTS = """
round => synthetic.measure(() => {
  for (const worker of synthetic.workers) {
    const stats = worker.about.stats;
    Object.assign(stats, { uptime_s: stats.uptime_s + 10, hits: stats.hits + 300 + round });
  }
  return [["workers", { changed: synthetic.workers, gone: [] }]];
})
"""
#: A generation of a model is committed: the model changes, and each worker that holds it reports.
FLIP = """
round => synthetic.measure(() => {
  const model = synthetic.models[round];
  const generation = model.generation + 1;
  Object.assign(model, { generation, committed_at: Date.now() / 1000 });
  const holders = synthetic.workers.filter((worker) => worker.models.includes(model.model));
  for (const worker of holders) worker.generations[model.model] = generation;
  const log = (what) => ["log", synthetic.entry(what, model.model, { generation: String(generation), holders: holders.length })];
  return [log("candidate"), log("committed"), ["models", { changed: [model], gone: [] }], ["workers", { changed: holders, gone: [] }]];
})
"""
#: All models change their state at once.
MODELS = """
round => synthetic.measure(() => {
  for (const model of synthetic.models) model.holders += 1;
  return [["models", { changed: synthetic.models, gone: [] }]];
})
"""


CHANGES = {"reports": REPORTS, "flip": FLIP, "models": MODELS}


def quickest_ms(page: Page, change: str) -> float:
    """Of some rounds; of more, as long as none was quick enough."""
    best_ms = math.inf
    for number in range(MOST_ROUNDS):
        if number >= ROUNDS and best_ms < MOST_MS:
            break
        best_ms = min(best_ms, page.evaluate(change, number))
    return best_ms


@pytest.mark.parametrize("unfolded", [0, 5], ids=["folded", "unfolded"])
def test_an_update_of_a_large_fleet_is_drawn_in_a_tenth_of_a_second(
    onlookers: Visitors, synthetic: str, unfolded: int
) -> None:
    """1,000 workers that hold 20 of 200 models each. Who watches a flip sees it while it happens, also with every model and some hosts
    unfolded."""
    scene = "synthetic.begin({hosts: 50, perHost: 20, models: 200, each: 20})"
    page = onlookers.open(scripts=(synthetic, scene))
    expect(page.get_by_role("heading", level=1)).to_have_text("All 1,000 workers answer from the same generations.")
    if unfolded:
        page.get_by_role("button", name="Show all 200 models").click()
        for host in range(1, unfolded + 1):
            page.get_by_role("button", name=f"eval-{host:02d}").click()
    expect(page.locator("tr.worker")).to_have_count(20 * unfolded)
    figures = {name: quickest_ms(page, change) for name, change in CHANGES.items()}
    print({name: round(ms, 1) for name, ms in figures.items()})
    assert all(ms < MOST_MS for ms in figures.values()), figures
