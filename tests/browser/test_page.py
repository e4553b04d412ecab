"""The dashboard as an operator and a viewer use it: real browser, real admin, real workers."""

import re
import urllib.error
import urllib.request
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest
from browser.conftest import OPERATOR, VIEWER, WORKERS, Desk, Visitors
from genlock.coordinator.errors import FlipAborted, FlipRejected
from playwright.sync_api import Locator, Page, Route, expect

ALL_AGREE = f"All {WORKERS} workers answer from the same generations."


def row_of(page: Page, model: str) -> Locator:
    return page.locator("#model-rows tr").filter(has=page.get_by_role("link", name=model, exact=True))


def post(desk: Desk, path: str, token: str) -> int:
    """The status of an empty POST."""
    request = urllib.request.Request(
        f"{desk.url}api/v1/{path}",
        method="POST",
        data=b"{}",
        headers={"authorization": f"Bearer {token}", "content-type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def confirm(page: Page, button: str, why: str = "") -> None:
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Reason").fill(why)
    dialog.get_by_role("button", name=button, exact=True).click()
    expect(dialog).to_be_hidden()


def test_a_wrong_token_is_told_and_a_right_one_opens_the_page(visitors: Visitors) -> None:
    """Somebody mistypes the token: the page says so, keeps nothing of it, and takes the right one then."""
    visitors.expected.append("status of 401")
    page = visitors.open(token=None)
    page.get_by_label("Token").fill("not-the-token-of-anybody")
    page.get_by_role("button", name="Log in").click()
    expect(page.get_by_role("alert")).to_have_text("This token is not known here.")
    assert page.evaluate("sessionStorage.length") == 0
    page.get_by_label("Token").fill(OPERATOR)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text(ALL_AGREE)


def test_the_token_of_a_link_leaves_the_address_at_once(visitors: Visitors, desk: Desk) -> None:
    """A link with a token would stand in the history of the browser, and on the screenshot in the ticket."""
    page = visitors.open()
    assert page.url == desk.url
    page.go_back()
    assert OPERATOR not in page.url


def test_a_flip_is_seen_while_it_happens_without_a_reload(
    visitors: Visitors, desk: Desk, background: Callable[..., "Future[Any]"]
) -> None:
    """A trainer publishes. The page shows the candidate with the progress of each worker, then the new generation, and that all agree;
    nobody has touched it."""
    page = visitors.open()
    expect(page.get_by_role("heading", level=1)).to_have_text(ALL_AGREE)
    page.evaluate("window.untouched = true")
    before = desk.fleet.model("digits").generation
    desk.hold.touch()
    try:
        flip = background(lambda: desk.publish(2.0, message="run 42"))
        expect(row_of(page, "digits")).to_contain_text(f"0 of {WORKERS} ready")
        row_of(page, "digits").get_by_role("link").click()
        expect(page.get_by_role("table", name="How far each worker is").get_by_text("at work")).to_have_count(WORKERS)
    finally:
        desk.hold.unlink()
    generation = flip.result(30)
    expect(page.locator("#detail .facts")).to_contain_text(f"generation {generation}")
    expect(page.get_by_role("heading", level=1)).to_have_text(ALL_AGREE)
    newest = page.locator("#detail .flip").first
    expect(newest).to_contain_text(f"{before} → {generation}")
    expect(newest).to_contain_text("mixed versions: none")
    page.get_by_role("navigation").get_by_role("link", name="Models").click()
    expect(row_of(page, "digits").locator("td").first).to_have_text(str(generation))
    expect(page.locator("#log-rows")).to_contain_text(f"generation {generation} is active")
    assert page.evaluate("window.untouched")


def test_a_rejected_candidate_is_told_with_its_reason(visitors: Visitors, desk: Desk) -> None:
    """A checkpoint full of NaN: the page says which generation was rejected, by whom, in which step and why; the active one stays."""
    page = visitors.open()
    before = row_of(page, "digits").locator("td").first.inner_text()
    with pytest.raises(FlipRejected) as rejected:
        desk.publish(float("nan"))
    expect(row_of(page, "digits")).to_contain_text(f"{rejected.value.generation} was rejected: {rejected.value.why}")
    flip = page.locator("#flip-rows li").first
    expect(flip).to_contain_text("rejected")
    expect(flip).to_contain_text(f"check at {rejected.value.worker}: {rejected.value.why}")
    expect(row_of(page, "digits").locator("td").first).to_have_text(before)
    expect(page.get_by_role("heading", level=1)).to_have_text(ALL_AGREE)


def test_a_rollback_by_button_says_from_what_to_what_and_is_done(visitors: Visitors, desk: Desk) -> None:
    """Generation N is a mistake: the operator presses the button, reads what will happen, gives a reason, and sees the new generation;
    the reason stands in the audit log, and the model is pinned. Then it is unpinned, by button too."""
    bad = desk.publish(3.0)
    page = visitors.open()
    button = row_of(page, "digits").get_by_role("button", name="Roll back")
    expect(row_of(page, "digits").locator("td").first).to_have_text(str(bad))
    button.click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text(f"generation {bad} (")
    way_back = desk.fleet.model("digits").way_back
    expect(dialog.get_by_label("The content to go back to")).to_contain_text(f"the content of generation {way_back}")
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(button).to_be_focused()
    button.click()
    confirm(page, "Roll back", "run 43 answers nonsense")
    expect(page.locator("#notices")).to_contain_text(f"generation {bad + 1} is active")
    expect(row_of(page, "digits").locator("td").first).to_have_text(str(bad + 1))
    expect(row_of(page, "digits")).to_contain_text("pinned by")
    expect(page.locator("#log-rows")).to_contain_text("run 43 answers nonsense")
    page.evaluate("location.hash = '#/models/digits'")
    page.get_by_role("button", name="Unpin").click()
    confirm(page, "Unpin")
    expect(page.locator("#detail .facts")).to_contain_text("Pinnedno")
    assert desk.fleet.model("digits").pin is None


def test_history_shows_what_differs_between_two_generations(visitors: Visitors, desk: Desk) -> None:
    """What has changed since yesterday? The page names the artifact with both digests, and the message."""
    desk.publish(4.0, message="before")
    now = desk.publish(5.0, message="after")
    page = visitors.open(at="#/models/digits")
    page.get_by_role("button", name=f"Compare {now} with {now - 1}").click()
    artifacts = page.get_by_role("table", name="Artifacts of both generations")
    expect(artifacts.get_by_role("row", name="model")).to_contain_text("changed")
    old, new = (row.artifacts[0].digest[:12] for row in reversed(desk.fleet.history("digits", limit=2)))
    expect(artifacts).to_contain_text(old)
    expect(artifacts).to_contain_text(new)
    expect(
        page.get_by_role("table", name="Facts in which both differ").get_by_role("row", name="Message")
    ).to_contain_text("after")


def test_an_abort_by_button_stops_the_candidate(
    visitors: Visitors, desk: Desk, background: Callable[..., "Future[Any]"]
) -> None:
    """A candidate that is taking for ever is stopped from the page; its publisher hears so."""
    page = visitors.open()
    desk.hold.touch()
    try:
        flip = background(lambda: desk.publish(6.0))
        row_of(page, "digits").get_by_role("button", name="Abort").click()
        confirm(page, "Abort", "wrong data set")
        with pytest.raises(FlipAborted, match="wrong data set"):
            flip.result(30)
    finally:
        desk.hold.unlink()
    expect(row_of(page, "digits")).to_contain_text("was aborted")


def test_refresh_and_clear_name_how_many_workers_did_it(visitors: Visitors) -> None:
    """Both reach every worker, and say so when all have answered."""
    page = visitors.open(at="#/models/ranker")
    page.get_by_role("button", name="Refresh").click()
    confirm(page, "Refresh", "a look")
    expect(page.locator("#notices")).to_contain_text(f"ranker was refreshed on {WORKERS} of {WORKERS} workers.")
    page.get_by_role("button", name="Clear…").click()
    confirm(page, "Clear")
    expect(page.locator("#notices")).to_contain_text(f"ranker was cleared on {WORKERS} of {WORKERS} workers.")


def test_an_error_of_the_admin_is_told_in_the_dialog(visitors: Visitors, desk: Desk) -> None:
    """Somebody else has pinned the model meanwhile: what was refused and why stands in the dialog, which stays open to try again."""
    page = visitors.open(at="#/models/ranker")
    visitors.expected.append("status of 404")
    page.get_by_role("button", name="Roll back").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="Roll back", exact=True).click()
    expect(dialog.get_by_role("status")).to_contain_text("ranker")
    expect(dialog.get_by_role("button", name="Roll back", exact=True)).to_be_enabled()


def test_another_try_is_the_same_change_unless_the_first_was_decided(visitors: Visitors, desk: Desk) -> None:
    """A reply of Redis or of a proxy came too late, and the change was made: with a new key the second try was a second change."""
    problem = "application/problem+json"
    told = [(504, problem), (504, "text/html"), (502, "text/html"), (409, problem)]
    answers, keys = iter(told), []
    visitors.expected += [f"status of {status}" for status, _ in told]

    def answer(route: Route) -> None:
        keys.append(route.request.headers["idempotency-key"])
        status, kind = next(answers, (200, ""))
        body = '{"detail": "it says so"}' if kind == problem else "<h1>it says so</h1>"
        if kind:
            route.fulfill(status=status, content_type=kind, body=body)
        else:
            route.continue_()

    page = visitors.open(at="#/models/digits")
    page.route("**/api/v1/models/digits/pin", answer)
    page.get_by_role("button", name="Pin").click()
    dialog = page.get_by_role("dialog")
    for number, (status, _) in enumerate(told, 1):
        dialog.get_by_role("button", name="Pin", exact=True).click()
        said = dialog.locator("#dialog-said")
        expect(said).to_contain_text("It says so." if number in (1, len(told)) else f"The admin answered {status}.")
        is_open = number < len(told)
        check = expect(said).to_contain_text if is_open else expect(said).not_to_contain_text
        check("which is not done twice")
        expect(dialog.get_by_role("button", name="Pin", exact=True)).to_be_enabled()
    dialog.get_by_role("button", name="Pin", exact=True).click()
    expect(dialog).to_be_hidden()
    assert len(keys) == len(told) + 1
    assert len(set(keys[: len(told)])) == 1 and keys[-1] != keys[0]
    desk.fleet.unpin("digits")


def test_a_viewer_sees_everything_but_buttons_and_may_nothing(visitors: Visitors, desk: Desk) -> None:
    """The token on the screen in the corridor must not be one that can roll back: neither by the page nor by the API."""
    page = visitors.open(token=VIEWER)
    expect(page.get_by_role("heading", level=1)).to_have_text(ALL_AGREE)
    words = "Roll back|Promote|Abort|Pin|Unpin|Refresh|Clear"
    buttons = page.get_by_role("button").filter(has_text=re.compile(words))
    expect(buttons).to_have_count(0)
    page.evaluate("location.hash = '#/models/digits'")
    expect(page.locator("#detail .facts")).to_contain_text("generation")
    expect(buttons).to_have_count(0)
    for path in ("models/digits/rollback", "models/digits/pin", "models/digits/refresh", "clear"):
        assert post(desk, path, VIEWER) == 403
    assert desk.fleet.model("digits").pin is None


def test_workers_are_shown_with_what_they_hold_and_answer(visitors: Visitors, desk: Desk) -> None:
    """Each worker by its process, with its generations, its lease, its memory and its rate of requests."""
    page = visitors.open()
    active = desk.fleet.model("digits").generation
    for worker in desk.fleet.workers():
        row = page.locator("tr.worker").filter(has_text=str(worker.pid))
        expect(row).to_contain_text("lease live")
        expect(row).to_contain_text(f"digits {active}")
        expect(row).to_contain_text("agrees")
    expect(page.locator("tr.worker").first.locator("td").nth(3)).to_contain_text("/s")
    expect(page).to_have_title(re.compile(f"^{re.escape(ALL_AGREE)}"))


def test_a_lost_connection_is_told_and_mended_without_a_reload(visitors: Visitors, desk: Desk) -> None:
    """The admin is restarted while a trainer publishes. The page says that what it shows is old, comes back by itself, and has missed
    nothing of the log."""
    visitors.expected += [
        "ERR_CONNECTION_REFUSED",
        "ERR_INCOMPLETE_CHUNKED_ENCODING",
        "ERR_CONNECTION_RESET",
        "ERR_EMPTY_RESPONSE",
        "network error",
    ]
    page = visitors.open()
    expect(page.get_by_role("heading", level=1)).to_have_text(ALL_AGREE)
    page.evaluate("window.untouched = true")
    desk.end_admin()
    try:
        expect(page.locator("#lost")).to_contain_text("No connection")
        expect(page.locator("#lost")).to_contain_text("What you see is of ")
        expect(page.get_by_role("button", name="Try now")).to_be_visible()
        expect(page.get_by_role("heading", level=1)).to_contain_text("That was at ")
        generation = desk.publish(7.0)
    finally:
        desk.start_admin()
    page.locator("#try-now").dispatch_event(
        "click"
    )  # it may have come back by itself a moment ago, and the button be gone
    expect(page.locator("#lost")).to_be_hidden()
    expect(page.get_by_role("heading", level=1)).to_have_text(ALL_AGREE)
    expect(page.locator("#log-rows")).to_contain_text(f"generation {generation} begins")
    assert page.evaluate("window.untouched")


def test_a_canary_is_watched_promoted_in_steps_and_then_to_all(visitors: Visitors, desk: Desk) -> None:
    """A candidate answers 5 % of the requests: the page shows its share, and what both groups did. One button gives it 25 %, and then
    everything; each time the dialog says from what to what."""
    page = visitors.open()
    generation = desk.publish(8.0, canary="5%,25%")
    expect(row_of(page, "digits")).to_contain_text(f"canary {generation} answers 5 % of requests")
    page.evaluate("location.hash = '#/models/digits'")
    figures = page.get_by_role("table", name="What requests of both groups came to")
    expect(figures.get_by_role("row", name="Candidate")).to_contain_text(re.compile("[1-9]"))
    page.get_by_role("button", name="Promote").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text(f"generation {generation} answers 5 %")
    dialog.get_by_label("Share of the requests").select_option("0.25")
    confirm(page, "Promote", "looks good")
    expect(page.get_by_role("list", name="Steps of the canary").locator("[aria-current=step]")).to_have_text("25 % now")
    page.get_by_role("button", name="Promote").click()
    confirm(page, "Promote")
    expect(page.locator("#detail .facts")).to_contain_text(f"generation {generation}")
    expect(page.locator("#notices")).to_contain_text(f"generation {generation} is active")
    expect(page.get_by_role("heading", level=1)).to_have_text(ALL_AGREE)


def test_a_canary_is_aborted_by_button(visitors: Visitors, desk: Desk) -> None:
    """It does worse: one button, a reason, and every request is answered by what was active all the while."""
    before = desk.fleet.model("ranker").generation
    page = visitors.open()
    flip = desk.fleet.publish("ranker", desk.checkpoint(9.0), canary="5%")
    expect(row_of(page, "ranker")).to_contain_text("canary")
    row_of(page, "ranker").get_by_role("button", name="Abort").click()
    expect(page.get_by_role("dialog")).to_contain_text("which is being tried")
    confirm(page, "Abort", "answers nonsense")
    expect(row_of(page, "ranker")).to_contain_text(f"{flip.generation} was aborted: answers nonsense")
    assert desk.fleet.model("ranker").generation == before
