"""The console in a real browser, as people use it: try, correct, teach, retrain, promote, go back, experiment.

Screenshots of the pages go to the folder that RAYCLS_SCREENSHOTS names, in light and dark and at two widths.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from raycls.data.versions import open_dataset
from tests.chromium import CHROMIUM, complaints_of_axe, launched, sign_in
from tests.product import Product, png_of, until, zip_of

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

SCREENSHOTS = os.environ.get("RAYCLS_SCREENSHOTS")
PATIENCE_MS = 60_000

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: `make setup-browser` installs it"),
]


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    """A server with digits/1 as champion, and digits/2, which has learned longer."""
    folder = tmp_path_factory.mktemp("console")
    made = Product(folder / "home", folder)
    made.raycls("data", "prepare", "digits")
    for epochs in ("1", "8"):
        made.raycls("train", "digits", "--preset", "smoke", "--set", f"epochs={epochs}")
    made.raycls("promote", "digits", "1")
    made.raycls("up", "--detach")
    yield made
    made.raycls("down")


@pytest.fixture(scope="module")
def admin(product: Product) -> str:
    return (product.home / "admin_token").read_text().strip()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as browser:
        yield browser


@pytest.fixture
def page(browser: Browser, product: Product) -> Iterator[Page]:
    """A page of a person who was never here. What the browser complains about fails the test."""
    context = browser.new_context(base_url=product.url)
    context.set_default_timeout(PATIENCE_MS)
    page = context.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda said: complaints.append(said.text) if "Content Security" in said.text else None)
    yield page
    context.close()
    assert complaints == []


def _digits(product: Product, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("RAYCLS_HOME", str(product.home))
    return open_dataset("digits")


def _picture(tmp_path: Path, digits: Any, row: int = 0) -> Path:
    path = tmp_path / "five.png"
    path.write_bytes(png_of(digits.images("test")[row]))
    return path


def test_a_first_visit_a_picture_and_a_correction(
    page: Page, product: Product, admin: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = _picture(tmp_path, _digits(product, monkeypatch))
    page.goto("/console/")
    page.locator("#files").set_input_files(picture)
    card = page.locator(".result").first
    card.locator(".bars rect.share").first.wait_for()
    assert card.locator(".bars rect.share").count() == 5
    card.locator(".overlay").wait_for()
    assert "version 1 answered in" in card.locator(".facts").inner_text()
    assert not card.locator(".wrong").is_visible(), "who is not signed in corrects nothing"

    page.goto("/console/models")
    assert page.url.endswith("/console/sign-in?next=/models")
    sign_in(page, admin)
    page.goto("/console/")
    page.locator("#files").set_input_files(picture)
    wrong = page.locator(".result .wrong").first
    wrong.wait_for()
    wrong.get_by_label("Right is").fill("3")
    wrong.get_by_role("button", name="Tell the server").click()
    wrong.get_by_text("it waits for a review").wait_for()
    (said,) = json.loads(product.raycls("feedback", "list", "digits", "--json"))["feedback"]
    assert (said["label"], said["sender"], said["state"]) == ("3", "admin", "waiting")

    page.goto("/console/teach")
    page.locator("#corrections tr", has_text="admin").get_by_role("button", name="accept").click()
    page.get_by_text("accepted: 1 of the corrections").wait_for()
    (said,) = json.loads(product.raycls("feedback", "list", "digits", "--state", "all", "--json"))["feedback"]
    assert said["state"] == "accepted"

    page.get_by_role("button", name="Sign out").click()
    page.get_by_text("signed out").wait_for()
    page.goto("/console/live")
    assert "/console/sign-in" in page.url


def test_pictures_are_sent_reviewed_by_keyboard_and_learned(
    page: Page, product: Product, admin: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digits = _digits(product, monkeypatch)
    noise = np.random.default_rng(0).integers(-6, 7, (6, *digits.images("train").shape[1:]))
    fresh = np.clip(digits.images("train")[:6].astype(int) + noise, 0, 255).astype(np.uint8)
    labels = [digits.info.classes[label] for label in digits.labels("train")[:6]]
    (tmp_path / "new.zip").write_bytes(zip_of(fresh, labels))
    (tmp_path / "evil<img src=x>.png").write_text("no picture")

    sign_in(page, admin)
    page.goto("/console/teach")
    page.locator("#upload [name=file]").set_input_files([tmp_path / "new.zip"])
    page.get_by_role("button", name="Send").click()
    page.get_by_text("6 taken, 0 known, 0 refused").wait_for()
    page.locator("#queue figure").nth(5).wait_for()
    page.get_by_text("6 taken, 0 known, 0 refused").wait_for()  # still, on the page with the new queue
    page.locator("#upload [name=file]").set_input_files([tmp_path / "new.zip"])
    page.get_by_role("button", name="Send").click()
    page.get_by_text("0 taken, 6 known, 0 refused. Known pictures keep the class").wait_for()
    page.locator("#upload [name=label]").fill("banana")
    page.locator("#upload [name=file]").set_input_files([tmp_path / "evil<img src=x>.png"])
    asked: list[str] = []
    page.once("dialog", lambda dialog: (asked.append(dialog.message), dialog.dismiss()))
    page.get_by_role("button", name="Send").click()
    assert asked == ["banana is a new class. Send the pictures as banana?"]
    assert page.get_by_text("0 taken, 6 known").is_visible(), "nothing was sent"
    page.locator("#queue figure").first.focus()
    for key in ("r", "a", "a", "a", "a"):
        done = page.locator("#queue figure.done").count()
        page.keyboard.press(key)
        until(lambda done=done: page.locator("#queue figure.done").count() > done)
    page.keyboard.press("l")
    page.get_by_label("The right class").fill("melon")
    page.once("dialog", lambda dialog: (asked.append(dialog.message), dialog.dismiss()))
    page.keyboard.press("Enter")
    until(lambda: asked[1:] == ["melon is a new class. Accept the picture, and teach the class?"])
    page.keyboard.press("l")
    page.get_by_label("The right class").fill(" 3 ")
    page.keyboard.press("Enter")
    page.get_by_text("accepted as 3").first.wait_for()
    sent = {hashlib.sha256(png_of(pixels)).hexdigest() for pixels in fresh}
    found = json.loads(product.raycls("uploads", "list", "digits", "--state", "all", "--json"))["uploads"]
    states = sorted(each["state"] for each in found if each["sha256"] in sent)
    assert states == ["accepted"] * 5 + ["rejected"]

    page.locator("#upload [name=label]").fill("3")
    page.locator("#upload [name=file]").set_input_files([tmp_path / "evil<img src=x>.png"])
    page.get_by_role("button", name="Send").click()
    page.get_by_text("0 taken, 0 known, 1 refused").wait_for()
    assert "evil<img src=x>.png" in page.locator("#refused").inner_text()

    page.locator("[name=preset]").select_option("smoke")
    page.get_by_role("button", name="Retrain digits").click()
    page.get_by_text("the retraining of digits has begun").wait_for()
    page.locator(".retraining[data-state=done]").wait_for(timeout=180_000)
    assert "data: digits@2, 5 new pictures" in page.locator(".retraining").first.inner_text()


def test_a_version_is_promoted_and_taken_back(page: Page, product: Product, admin: str) -> None:
    sign_in(page, admin)
    asked: list[str] = []
    page.on("dialog", lambda dialog: (asked.append(dialog.message), dialog.accept()))
    page.goto("/console/models/digits")
    page.locator("[name=version]").select_option("2")
    page.get_by_label("Promote it although it is not better").fill("it has learned longer")
    page.get_by_role("button", name="Promote").click()
    page.get_by_text("The server promotes version 2").wait_for()
    assert asked == ["Let version 2 answer all predictions of digits without a comparison?"]
    page.locator("tr.champion", has_text="2").wait_for()
    _until_it_answers(page, "digits/2")

    page.goto("/console/models/digits")
    page.locator("[name=reason]").fill("as an exercise")
    page.get_by_role("button", name="Roll back").click()
    page.locator("td", has_text="as an exercise").wait_for()  # it is recorded when it begins
    page.locator("td", has_text=re.compile("^rollback$")).wait_for()
    _until_it_answers(page, "digits/1")


def _until_it_answers(page: Page, version: str) -> None:
    """Load the page Try until it names the version: the champion's row changes before all replicas have."""
    page.goto("/console/")
    limit = time.monotonic() + 60
    while not page.get_by_text(f"{version} answers").is_visible():
        assert time.monotonic() < limit
        page.wait_for_timeout(500)
        page.reload()


def test_an_experiment_is_begun_watched_and_ended(page: Page, product: Product, admin: str) -> None:
    sign_in(page, admin)
    page.on("dialog", lambda dialog: dialog.accept())
    page.goto("/console/live")
    page.locator("#hour div", has=page.get_by_text("replicas", exact=True)).get_by_text(
        "1", exact=True
    ).wait_for()
    page.get_by_label("Challenger").select_option("digits/2")
    page.get_by_role("button", name="Begin").click()
    page.get_by_text("the experiment has begun").wait_for()
    page.get_by_text("digits/2 against digits/1: shadow, share 0.2").wait_for()
    page.get_by_role("button", name="End the experiment").click()
    page.get_by_text("the experiment has ended").wait_for()


def test_a_study_is_seen_live(page: Page, product: Product, admin: str) -> None:
    sign_in(page, admin)
    with product.began("tune", "digits", "--trials", "2", "--preset", "smoke", "--study", "seen") as study:
        running = page.locator("tr", has_text="seen").filter(has_text="running")
        until(lambda: page.goto("/console/runs?dataset=digits") and running.count())
        running.get_by_role("link").click()
        page.locator("#live tbody tr").nth(1).wait_for(timeout=120_000)
        page.locator("#status", has_text="finished").wait_for(timeout=240_000)
        page.get_by_text("was chosen to be trained in full").wait_for()
        assert study.wait(60) == 0


def test_an_upload_survives_a_reload_a_lost_network_and_a_killed_console(
    page: Page, product: Product, admin: str, tmp_path: Path
) -> None:
    noise = np.random.default_rng(9).integers(0, 256, (5, 1200, 1200, 3), dtype=np.uint8)
    data = zip_of(noise, ["3"] * len(noise))
    (tmp_path / "large.zip").write_bytes(data)
    sign_in(page, admin)
    page.goto("/console/teach")
    browser, status = page.context.new_cdp_session(page), page.locator("#upload [role=status]")

    def slow(*, offline: bool = False) -> None:
        network = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": 2 << 20}
        browser.send("Network.emulateNetworkConditions", {"offline": offline, **network})

    slow()

    def send() -> None:
        page.locator("#upload [name=file]").set_input_files([tmp_path / "large.zip"])
        page.get_by_role("button", name="Send").click()

    def sent(share: int) -> bool:
        found = re.search(r"sent (\d+)%", status.inner_text())
        return found is not None and int(found[1]) >= share

    send()
    until(lambda: sent(25))
    page.reload()
    page.get_by_text(re.compile("large.zip: [1-9][0-9]% is there. Choose the same file")).wait_for()
    slow()
    send()
    until(lambda: sent(30))
    slow(offline=True)
    page.get_by_text("trying again in").wait_for()
    slow()
    until(lambda: sent(60))
    product.kill("ray::ServeReplica:raycls-console:")
    page.get_by_text("5 taken, 0 known, 0 refused").wait_for(timeout=120_000)
    for pixels in noise:  # other tests find the queue without them
        product.raycls("uploads", "purge", hashlib.sha256(png_of(pixels)).hexdigest())


def test_a_version_is_looked_at_and_compared_with_another(page: Page, product: Product, admin: str) -> None:
    sign_in(page, admin)
    page.goto("/console/models/digits")
    page.get_by_role("link", name="2", exact=True).first.click()
    page.get_by_role("cell", name="verified").nth(2).wait_for()
    page.get_by_label("Compare with version").select_option("1")
    page.get_by_role("button", name="Compare").click()
    page.get_by_role("heading", name="digits/2 beside digits/1").wait_for()
    first = page.locator(".grid figure img").first
    until(lambda: first.evaluate("image => image.naturalWidth") > 0)
    page.goto("/console/")
    page.locator(".samples button").first.click()
    page.locator(".result .bars rect.share").first.wait_for()


def test_the_pages_fit_light_and_dark_wide_and_narrow_and_everybody(
    browser: Browser, product: Product, admin: str
) -> None:
    """No page is wider than the window, and axe-core finds nothing that keeps people out.

    What the pages look like, a person sees in the screenshots.
    """
    for scheme in ("light", "dark"):
        for width in (1200, 360):
            context = browser.new_context(
                base_url=product.url, color_scheme=scheme, viewport={"width": width, "height": 900}
            )
            page = context.new_page()
            sign_in(page, admin)
            for name in (
                "",
                "models",
                "models/digits",
                "models/digits/versions/2",
                "models/digits/comparison?challenger=2&champion=1",
                "runs",
                "datasets",
                "datasets/digits/1",
                "teach",
                "live",
            ):
                page.goto(f"/console/{name}")
                page.wait_for_load_state("networkidle" if name != "live" else "load")
                page.locator("[data-making]").wait_for(state="detached")  # a comparison is ready
                assert complaints_of_axe(page) == [], (name, scheme, width)
                assert page.get_by_role("heading", level=1).inner_text() != "That did not work", name
                assert page.evaluate("document.documentElement.scrollWidth") <= width, (name, width)
                if SCREENSHOTS:
                    shown = (name.partition("?")[0] or "try").replace("/", "-")
                    file = f"{shown}-{scheme}-{width}.png"
                    page.screenshot(path=Path(SCREENSHOTS) / file, full_page=True)
            context.close()
