"""Whether everybody can use the page: axe finds nothing serious, in light and dark, on a desk and on a phone; nothing needs a mouse."""

from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from browser.conftest import Visitors
from playwright.sync_api import Page, expect

PHONE, DESK = 360, 1600
#: A synthetic fleet with everything that a page can show at once.
SCENE = (Path(__file__).parent / "scene.js").read_text("utf-8")


def scene(onlookers: Visitors, synthetic: str, **more: Any) -> Page:
    return onlookers.open(scripts=(synthetic, SCENE), **more)


def assert_accessible(page: Page) -> None:
    found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    bad = [rule for rule in found if rule["impact"] in ("serious", "critical")]
    assert [(rule["id"], [node["html"] for node in rule["nodes"]][:3]) for rule in bad] == []


def assert_fits(page: Page) -> None:
    """The page itself does not scroll sideways."""
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0


@pytest.mark.parametrize(("width", "dark"), [(DESK, False), (PHONE, True)], ids=["desk in light", "phone in dark"])
def test_axe_finds_nothing_serious_and_the_page_fits(
    onlookers: Visitors, synthetic: str, width: int, dark: bool
) -> None:
    """Log-in, overview, a model with its candidate, a canary, a dialog, a lost connection: colours have contrast, everything has a name and
    a place."""
    login = onlookers.open(token=None, width=width, dark=dark)
    assert_accessible(login)
    page = scene(onlookers, synthetic, width=width, dark=dark)
    expect(page.get_by_role("heading", level=1)).to_contain_text("1 of 12 workers does not answer")
    assert_accessible(page)
    assert_fits(page)
    page.get_by_role("button", name="Roll back encoder").click()
    expect(page.get_by_role("dialog")).to_be_visible()
    assert_accessible(page)
    assert_fits(page)
    page.keyboard.press("Escape")
    page.evaluate("synthetic.push('candidate', synthetic.progress)")
    page.evaluate("location.hash = '#/models/digits'")
    page.get_by_role("button", name="Compare 7 with 6").click()
    expect(page.get_by_text("no memory")).to_be_visible()
    assert_accessible(page)
    assert_fits(page)
    page.evaluate("location.hash = '#/models/ranker'")
    expect(page.get_by_text("Goes on by itself")).to_be_visible()
    page.evaluate("synthetic.isDown = true; synthetic.drop()")
    expect(page.locator("#lost")).to_be_visible()
    assert_accessible(page)
    assert_fits(page)


def test_the_keyboard_alone_rolls_back(onlookers: Visitors, synthetic: str) -> None:
    """Tab, Enter, a reason, Enter: no mouse; and what is posted is what was read, under a request id."""
    page = scene(onlookers, synthetic)
    page.evaluate("synthetic.answers('committed')")
    button = page.get_by_role("button", name="Roll back encoder")
    for _ in range(40):
        page.keyboard.press("Tab")
        if button.evaluate("node => node === document.activeElement"):
            break
    expect(button).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.type("too slow")
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(button).to_be_focused()
    expect(page.locator("#notices")).to_contain_text("encoder: generation 9 is active")
    [post] = page.evaluate("synthetic.posts")
    assert post["path"].endswith("models/encoder/rollback")
    assert post["body"] == {"to": None, "pin": True, "why": "too slow"}
    assert len(post["key"]) == 32


def test_what_happened_is_read_out_once_and_in_one_piece(onlookers: Visitors, synthetic: str) -> None:
    """A flip of a fleet is four entries of the log and a dozen reports. Who listens to the page hears that a generation is active, not all
    of it."""
    page = scene(onlookers, synthetic)
    spoken = page.locator("#spoken")
    expect(spoken).to_contain_text("1 of 12 workers does not answer")
    page.evaluate(
        "for (const what of ['candidate', 'fencing', 'committed']) synthetic.log(what, 'fusion', {generation: '9'})"
    )
    expect(spoken).to_have_text("fusion generation 9 is active.")


def test_a_change_whose_answer_got_lost_is_asked_for_again_under_the_same_id(
    onlookers: Visitors, synthetic: str
) -> None:
    """The connection breaks in a rollback. Nobody knows whether it was done; trying again must not roll back twice."""
    page = scene(onlookers, synthetic)
    page.get_by_role("button", name="Roll back encoder").click()
    dialog = page.get_by_role("dialog")
    page.evaluate("synthetic.isCut = true")
    dialog.get_by_role("button", name="Roll back", exact=True).click()
    expect(dialog.get_by_role("status")).to_contain_text("Whether it was done is not known")
    page.evaluate("synthetic.isCut = false; synthetic.answers('pending', 'committed')")
    dialog.get_by_role("button", name="Roll back", exact=True).click()
    expect(dialog).to_be_hidden()
    posts = page.evaluate("synthetic.posts")
    assert len(posts) == 3
    assert len({post["key"] for post in posts}) == 1
