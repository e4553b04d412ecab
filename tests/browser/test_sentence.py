"""The one sentence on top: it must not be calm when workers disagree, nor alarm while a flip is on its way."""

from browser.conftest import Visitors
from playwright.sync_api import expect

#: What a fleet of three workers, that agree at first, is told to be, and what the page says then. `now`: unix seconds; a lease is 3 s.
CASES = {
    "worker.generations.digits = 6; push()": "1 of 3 workers does not answer from the active generations; the others agree.",
    "worker.generations.digits = 8; push()": "1 of 3 workers does not answer from the active generations; the others agree.",
    "worker.generations.digits = 7; worker.about.models.digits = { version: 'f'.repeat(64) }; push()": (
        "1 of 3 workers does not answer from the active generations; the others agree."
    ),
    "worker.about.models.digits = { version: model.version, stale: true }; push()": (
        "1 of 3 workers marks its answers as stale; the others agree."
    ),
    "worker.about.models = {}; worker.silent_since = now - 9; push()": (
        "1 of 3 workers shows no sign of life; the others agree."
    ),
    "worker.silent_since = null; delete worker.generations.digits; push()": (
        "1 of 3 workers has not loaded everything yet; the others agree."
    ),
    "worker.last_error = 'digits generation 7: signature: it is not signed'; push()": (
        "1 of 3 workers cannot load what is active; the others agree."
    ),
    "worker.last_error = 'digits generation 6: signature: it is not signed'; push()": (
        "1 of 3 workers has not loaded everything yet; the others agree."
    ),
    "worker.last_error = ''; worker.generations.digits = 7; push()": "All 3 workers answer from the same generations.",
    "Object.assign(model, { generation: 8, committed_at: now }); synthetic.push('models', { changed: [model], gone: [] })": (
        "3 of 3 workers have yet to say that they have changed."
    ),
    "synthetic.workers.forEach((one) => { one.generations.digits = 8 }); push()": "All 3 workers answer from the same generations.",
    "synthetic.push('fleet', synthetic.facts({ open: false }))": (
        "The fleet is closed: answers are marked stale, and nothing can be committed."
    ),
    "synthetic.push('fleet', synthetic.facts({ stale: true, why: 'no answer' }))": (
        "Redis does not answer: workers go on with what they hold, and mark their answers as stale."
    ),
    "synthetic.push('fleet', synthetic.facts()); synthetic.push('workers', { changed: [], gone: ['1', '2', '3'] })": (
        "No worker is a member of this fleet."
    ),
}
KNOWN = """
const now = Date.now() / 1000;
const [model] = synthetic.models, worker = synthetic.workers[1];
const push = () => synthetic.push("workers", { changed: synthetic.workers, gone: [] });
"""


def test_the_sentence_says_what_is_so(onlookers: Visitors, synthetic: str) -> None:
    """Whoever looks at one sentence only has to be told of every way in which workers can differ, and of none that is no difference."""
    page = onlookers.open(scripts=(synthetic, "synthetic.begin({ hosts: 1, perHost: 3, models: 1 })"))
    for change, sentence in CASES.items():
        page.evaluate(f"{{ {KNOWN} {change} }}")
        expect(page.get_by_role("heading", level=1)).to_have_text(sentence)


def test_a_flip_that_a_worker_does_not_follow_is_told_a_lease_later(onlookers: Visitors, synthetic: str) -> None:
    """A report is a third of a lease behind the commit at the most. Who is at the generation before after a lease disagrees, and the
    timeline says that versions are mixed. The page's clock is the admin's: it is set on."""
    page = onlookers.open(scripts=(synthetic, "synthetic.begin({ hosts: 1, perHost: 3, models: 1 })"))
    page.evaluate("""{
        const [model] = synthetic.models;
        Object.assign(model, { generation: 8, committed_at: Date.now() / 1000 });
        for (const what of ["candidate", "fencing", "committed"]) synthetic.log(what, "digits", { generation: "8" });
        synthetic.workers.slice(1).forEach((one) => { one.generations.digits = 8 });
        synthetic.push("models", { changed: [model], gone: [] });
        synthetic.push("workers", { changed: synthetic.workers, gone: [] });
    }""")
    heading = page.get_by_role("heading", level=1)
    expect(heading).to_have_text("1 of 3 workers has yet to say that it has changed; the others agree.")
    page.evaluate("synthetic.push('fleet', synthetic.facts({ as_of: Date.now() / 1000 + 6 }))")
    expect(heading).to_have_text("1 of 3 workers does not answer from the active generations; the others agree.")
    expect(page.locator("#attention")).to_contain_text("reports generation 7 of digits; 8 is active for")
    expect(page.locator("#flip-rows li").first).to_contain_text("mixed versions: 1 worker reports another generation")
