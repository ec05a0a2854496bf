"""The service's page in Chromium: by keyboard, by file drop, at a phone's width, without errors."""

import base64
import os
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect, sync_playwright

pytestmark = pytest.mark.processes

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
PATIENCE = 60_000
"""Time limit of an answer, in ms: pictures are drawn on a shared CPU."""
DROP = """async ({content, name}) => {
    const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
    const dataTransfer = new DataTransfer();
    dataTransfer.items.add(new File([bytes], name));
    const event = { dataTransfer, bubbles: true, cancelable: true };
    document.body.dispatchEvent(new DragEvent("dragover", event));
    document.body.dispatchEvent(new DragEvent("drop", event));
}"""


@dataclass
class Visit:
    """An open page, its requests, and its complaints: script errors, also those of the CSP."""

    page: Page
    url: str
    token: str
    requests: list = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def enter(self):
        """Open the page with the token in the address."""
        self.page.goto(f"{self.url}/#token={self.token}")
        expect(self.page.locator("#work")).to_be_visible()

    def ask(self, path):
        """Return the service's answer to a request of the test itself."""
        headers = {"Authorization": f"Bearer {self.token}"}
        return self.page.request.get(f"{self.url}/v1/{path}", headers=headers)

    def forgive(self, status):
        """Drop the browser's complaints about answers with a status."""
        line = f"Failed to load resource: the server responded with a status of {status} "
        self.complaints[:] = [text for text in self.complaints if not text.startswith(line)]

    def posts(self):
        """Return the requests for decoding."""
        return [request for request in self.requests if request.method == "POST"]


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no Chromium here: chromium, chromium-browser, google-chrome")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser, served):
    """Yield a visit; oracle: it ends without complaints and without a request to another host."""
    context = browser.new_context(
        viewport={"width": 1280, "height": 900}, reduced_motion="reduce", color_scheme="light"
    )
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    made = Visit(page, served.url.rstrip("/"), served.token)
    page.on("request", lambda request: made.requests.append(request))
    page.on("pageerror", lambda error: made.complaints.append(str(error)))
    page.on("console", lambda line: line.type == "error" and made.complaints.append(line.text))
    expect.set_options(timeout=PATIENCE)
    yield made
    expect.set_options(timeout=None)
    context.close()
    assert made.complaints == []
    asked = {request.url for request in made.requests}
    assert {url for url in asked if not url.startswith((made.url + "/", "data:", "blob:"))} == set()


def test_wrong_token_is_refused_and_the_right_one_opens(visit):
    page = visit.page
    response = page.goto(visit.url)
    # Without a policy, the absence of complaints would prove little.
    assert "default-src 'none'" in response.headers["content-security-policy"]
    expect(page.locator("#work")).to_be_hidden()
    page.get_by_label("Token of this service").fill(visit.token + "x")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert").filter(has_text="does not know this token")).to_be_visible()
    assert page.evaluate("Object.keys(sessionStorage)") == []
    visit.forgive(401)
    page.get_by_label("Token of this service").fill(visit.token)
    page.get_by_role("button", name="Continue").click()
    expect(page.locator("#work")).to_be_visible()
    expect(page.locator("#access")).to_be_hidden()


def test_token_leaves_the_address_and_is_kept_until_forgotten(visit):
    page = visit.page
    visit.enter()
    assert page.url == f"{visit.url}/"
    assert not any(visit.token in request.url.split("#")[0] for request in visit.requests)
    page.reload()
    expect(page.locator("#work")).to_be_visible()
    assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
    page.get_by_role("button", name="Forget the token").click()
    expect(page.get_by_label("Token of this service")).to_be_focused()
    assert page.evaluate("Object.keys(sessionStorage)") == []
    page.reload()
    expect(page.get_by_label("Token of this service")).to_be_visible()


def test_by_keyboard_alone_a_sample_shows_the_answers(visit):
    page = visit.page
    visit.enter()
    card, samples = visit.ask("model").json(), visit.ask("samples").json()
    kind = "simulated" if card["simulated"] else "recorded"
    expect(page.locator("#facts .badge")).to_have_text(f"{kind} brain")
    page.keyboard.press("Tab")
    expect(page.locator("#skip")).to_be_focused()
    tab_to(page, "number")
    with (
        page.expect_response("**/v1/retrieve?*") as retrieved,
        page.expect_response("**/v1/reconstruct?*") as reconstructed,
    ):
        page.keyboard.type("3")  # focus selects the content of the field
        page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name=f"Brain 3 of {samples['count']}")).to_be_visible()

    answer = reconstructed.value.json()
    tiles = page.locator("#candidates li")
    expect(tiles.locator("img")).to_have_count(len(answer["candidates"]))
    assert texts(tiles) == [three(each["similarity"]) for each in answer["candidates"]]
    assert [
        (number, tile.inner_text().split()[-1], "the chosen one" in alt(tile))
        for number, tile in enumerate(tiles.all())
        if "chosen" in (tile.get_attribute("class") or "")
    ] == [(answer["chosen"], "chosen", True)]
    assert page.locator("#lowlevel img").get_attribute("src") == answer["lowlevel"]
    expect(page.locator("#draw-state")).to_contain_text(answer["model"])

    answer = retrieved.value.json()
    nearest = page.locator("#matches li")
    expect(nearest.locator("img")).to_have_count(min(8, card["gallery"]["pictures"]))
    similarities = [float(text) for text in texts(nearest)]
    assert similarities == sorted(similarities, reverse=True)
    assert texts(nearest) == [three(match["similarity"]) for match in answer["matches"]]
    marked = [number for number, tile in enumerate(nearest.all()) if "seen one" in alt(tile)]
    if card["gallery"]["pictures"] == samples["count"]:
        numbers = [match["number"] for match in answer["matches"]]
        assert marked == [place for place, number in enumerate(numbers) if number == 2]
    else:
        assert marked == []
    expect(page.locator("#lead")).to_contain_text(f"{three(answer['lead']['value'])} ahead")
    drawing = page.locator("#histogram svg[role=img]")
    leads = card["gallery"]["val_leads"]
    assert f"{sum(leads['right']):,} brains with the right" in drawing.get_attribute("aria-label")
    assert broken_pictures(page) == []

    with page.expect_request("**/v1/samples/3") as stepped:
        page.keyboard.press("ArrowRight")
    expect(page.locator("#number")).to_have_value("4")
    expect(page.locator("#number")).to_be_focused()
    assert stepped.value.method == "GET"


def test_dropped_file_is_decoded_and_invalid_ones_are_not_sent(visit):
    page = visit.page
    visit.enter()
    brain = visit.ask("samples/0").body()
    drop(page, brain[:-4], "short.npy")
    expect(page.locator("#input-problem")).to_contain_text("short.npy: has more or fewer bytes")
    drop(page, b"rubbish", "holiday.npy")
    expect(page.locator("#input-problem")).to_contain_text("holiday.npy: is neither a .npy file")
    drop(page, b'{"voxels": [1.0', "half.json")
    expect(page.locator("#input-problem")).to_contain_text("half.json: is not valid JSON")
    assert visit.posts() == []

    drop(page, brain, "voxels.npy")
    expect(page.get_by_role("heading", name="voxels.npy")).to_be_visible()
    expect(page.locator("#matches img").first).to_be_visible()
    expect(page.locator("#candidates img").first).to_be_visible()
    expect(page.locator("#input-problem")).to_be_empty()
    expect(page.locator("#seen")).to_be_hidden()  # the seen picture is unknown
    assert page.locator("#matches .true").count() == 0
    assert {request.post_data_buffer for request in visit.posts()} == {brain}


def test_busy_service_is_asked_again_and_drawing_can_be_cancelled(visit):
    page = visit.page
    visit.enter()
    busy = {
        "status": 429,
        "headers": {"Retry-After": "1"},
        "json": {"error": "too many requests", "request_id": "0"},
    }
    page.route("**/v1/retrieve?*", lambda route: route.fulfill(**busy), times=1)
    unanswered = []
    page.route("**/v1/reconstruct?*", lambda route: unanswered.append(route))
    page.get_by_role("button", name="Decode").click()
    expect(page.locator("#retrieve-state")).to_contain_text("Trying again in 1 s (1 of 5)")
    expect(page.locator("#matches img").first).to_be_visible()
    visit.forgive(429)
    expect(page.locator("#elapsed")).to_have_text(re.compile(r"^[1-9]\d* s$"))
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("#draw-state")).to_have_text("Drawing was cancelled.")
    assert len(unanswered) == 1
    page.unroute("**/v1/reconstruct?*")
    page.get_by_role("button", name="Draw again").click()
    expect(page.locator("#candidates .chosen img")).to_be_visible()
    assert page.locator("#matches img").first.is_visible()


def test_no_width_scrolls_sideways(visit):
    page = visit.page
    visit.enter()
    page.get_by_role("button", name="Decode").click()
    expect(page.locator("#matches img").first).to_be_visible()
    expect(page.locator("#candidates img").first).to_be_visible()
    for width, height in ((1280, 900), (390, 844), (360, 740)):
        page.set_viewport_size({"width": width, "height": height})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            if folder := os.environ.get("MINDEYE_SCREENSHOTS"):
                picture = Path(folder) / f"page-{width}-{scheme}.png"
                page.screenshot(path=picture, full_page=True)


def tab_to(page, name):
    """Press Tab until an element has the focus; check that the focus is visible."""
    for _ in range(12):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == name:
            outline = "getComputedStyle(document.activeElement).outlineStyle"
            assert page.evaluate(outline) == "solid"
            return
    pytest.fail(f"{name} cannot be reached by Tab")


def drop(page, content, name):
    page.evaluate(DROP, {"content": base64.b64encode(content).decode(), "name": name})


def three(number):
    return f"{number:.3f}"


def texts(tiles):
    return [tile.locator(".similarity").inner_text() for tile in tiles.all()]


def alt(tile):
    return tile.locator("img").get_attribute("alt")


def broken_pictures(page):
    """Return the alternative texts of pictures that did not load or have no such text."""
    images = page.locator("#result img")
    expect(images.first).to_be_visible()
    loaded = "all => all.filter((one) => !one.naturalWidth || !one.alt).map((one) => one.alt)"
    return images.evaluate_all(loaded)
