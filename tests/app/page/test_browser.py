"""The explorer in a real headless Chromium: what it shows is what Python gives, and nothing from outside runs."""

import base64
import json
import re

import pytest
from playwright.sync_api import expect

from ard.app import Asked, Clips, answer, hear, listen
from ard.run import Run
from tests.app.conftest import NASTY, QUESTION, SCRIPT, made, wav
from tests.browser import Visitor, chromium, needs_chromium

pytestmark = needs_chromium
DROP = """([content, name]) => {
  const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0)), dropped = new DataTransfer();
  dropped.items.add(new File([bytes], name));
  document.querySelector(".drop").dispatchEvent(new DragEvent("drop", { dataTransfer: dropped, bubbles: true }));
}"""


@pytest.fixture(scope="module")
def browser():
    """Start the browser, with a microphone that beeps."""
    with chromium("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream") as started:
        yield started


class Guest(Visitor):
    """A visitor whose page must have no error, run nothing from outside and ask no other machine."""

    def __init__(self, browser, url, **settings):
        super().__init__(browser, **settings)
        self.url = url

    def go(self, path):
        self.page.goto(self.url + path)
        return self.page

    def drop(self, content, name):
        self.page.wait_for_selector(".drop")
        self.page.evaluate(DROP, [base64.b64encode(content).decode(), name])

    def leave(self, refusals=0):
        """Close the page; so many requests were refused on purpose."""
        assert self.page.evaluate("window.hacked") is None
        refused = [line for line in self.complaints if "the server responded with a status of 400" in line]
        assert (self.errors, self.complaints, len(refused)) == ([], refused, refusals)
        assert all(one.startswith((self.url, "blob:", "data:")) for one in self.requests)
        self.close()


@pytest.fixture
def visitor(browser, url):
    """Open a page."""
    return Guest(browser, url)


def listed(page):
    """The features that the page lists, with their shares."""
    expect(page.locator("#fired li").first).to_be_visible()
    if page.locator("#rest").is_visible():
        page.click("#rest")
    rows = page.locator("#fired li").all()
    found = [re.match(r"(.*) (\d+) steer$", row.locator(".name").inner_text()) for row in rows]
    shares = [row.locator(".share > span").evaluate("one => one.firstChild.data") for row in rows]
    return [(name[1], int(name[2]), share) for name, share in zip(found, shares, strict=True)]


def shown(fired):
    share = f"{fired.share:.1f}×" if fired.share >= 0.995 else f"{fired.share:.2f}"
    return fired.name, fired.feature, share


def test_a_dropped_clip_shows_the_features_that_python_gives_and_plays(visitor, subject):
    page = visitor.go("/listen")
    content, name = wav(made(1)), "<img src=x onerror='window.hacked = 1'>.wav"
    visitor.drop(content, name)
    heard = listen(subject, hear(content, name))
    assert listed(page) == [shown(fired) for fired in heard.concepts]
    expect(page.locator("#player b")).to_have_text(name)
    span = heard.num_tokens * heard.token_s
    trace = page.locator("#fired .trace").first
    trace.click(position={"x": trace.bounding_box()["width"] / 2, "y": 8})
    assert page.evaluate("document.querySelector('#player .clip').audio.currentTime") > 0.45 * span  # at once
    expect(page.locator("#player .clip")).to_have_class(re.compile("playing"))
    follows = re.compile(r"--head: (5[2-9]|[6-9]\d)")
    expect(page.locator("#fired")).to_have_attribute("style", follows)  # the line is where the sound is
    assert page.evaluate("document.querySelector('#player .clip').audio.currentTime") > span / 2
    page.locator("#player .play").click()
    expect(page.locator("#player .clip")).not_to_have_class(re.compile("playing"))
    page.locator("#fired a").first.click()
    page.wait_for_url(re.compile("/report/"))
    page.go_back()
    visitor.drop(b"no sound", "../../etc/passwd")
    expect(page.locator("#trouble")).to_contain_text("'../../etc/passwd' cannot be heard (unreadable")
    visitor.leave(refusals=1)


def test_a_recording_is_heard(visitor):
    page = visitor.go("/listen")
    page.get_by_role("button", name="Record").click()
    expect(page.locator(".recording")).to_contain_text("(1 s)")
    page.click(".recording")
    expect(page.locator("#summary")).to_contain_text("features without a name")
    expect(page.locator("#player b")).to_have_text("recording.wav")
    visitor.leave()


def test_at_zero_the_answer_is_the_unsteered_one_and_a_slider_changes_it(visitor, subject, run, tmp_path):
    page, feature = visitor.go("/steer"), next(iter(subject.names))
    page.fill("#words", SCRIPT)  # the clip's caption
    expect(page.locator("#clips button")).to_have_count(1)
    page.click("#clips button")
    expect(page.locator("#player b")).to_have_text(NASTY.id)
    page.fill("#prompt", "What do you hear?")
    page.fill("#search", "script")
    page.click("#found button")
    expect(page.locator("#chosen button")).to_have_text(f"{SCRIPT} ×")
    slider = page.locator(".set input[type='range']").first
    slider.fill("0")
    expect(page.locator(".set output").first).to_have_text("not set")
    page.click("#more")
    page.locator(".set input[type='range']").nth(1).fill("8")
    page.click("#ask")
    expect(page.locator("#status")).to_have_text("4 answers.")
    clip = Clips(run).get({"split": "steer", "id": NASTY.id}).clip
    answers = answer(subject, clip, Asked("What do you hear?", [{}, {feature: 8.0}]))
    assert page.locator(".answer .said").all_inner_texts() == answers
    assert answers[2] == answers[0] != answers[3]
    expect(page.locator(".answer.set").first).to_have_class(re.compile("same"))
    with page.expect_download() as started:
        page.click("#keep")
    started.value.save_as(tmp_path / "kept.json")
    kept = json.loads((tmp_path / "kept.json").read_text(encoding="utf-8"))
    assert [kept["unsteered"], kept["passed_through"], *(one["answer"] for one in kept["settings"])] == answers
    assert page.inner_text("#python").strip() == kept["python"].strip()
    assert page.inner_text("#command").splitlines() == [one["command_line"] for one in kept["settings"]]
    slider.press("ArrowRight")
    expect(page.locator(".set output").first).to_have_text("0.25×")
    expect(page.locator(".answer.set").first).to_have_class(re.compile("stale"))
    visitor.leave()


def test_an_answer_can_be_stopped_and_the_next_one_begins_at_once(visitor, theirs, monkeypatch):
    page = visitor.go("/steer?split=steer&id=app-000001")
    expect(page.locator("#player b")).to_have_text("app-000001")
    page.evaluate("document.getElementById('max_new_tokens').value = 256")
    monkeypatch.setattr(theirs.model.model.generation_config, "eos_token_id", None)  # it never stops by itself
    page.fill("#prompt", "What do you hear?")
    page.click("#ask")
    expect(page.locator("#unsteered .said")).not_to_be_empty()
    page.click("#stop")
    expect(page.locator("#status")).to_have_text("Stopped.")
    monkeypatch.undo()
    page.evaluate("document.getElementById('max_new_tokens').value = 4")
    page.click("#ask")
    expect(page.locator("#status")).to_have_text("3 answers.")
    visitor.leave()


def test_two_raters_and_a_steerer_at_once(browser, url, folder):
    raters = [Guest(browser, url) for _ in range(2)]
    steerer = Guest(browser, url)
    page = steerer.go("/steer?split=steer&id=app-000001")
    expect(page.locator("#player b")).to_have_text("app-000001")
    page.fill("#prompt", QUESTION)
    for rater, name in zip(raters, ("Anna", "Björn"), strict=True):
        rater.go("/rate/")
        rater.page.fill("#person", name)
        rater.page.keyboard.press("Enter")
    page.click("#ask")
    for rater in raters:
        for play in rater.page.locator("#clips .play").all():
            play.click()
        expect(rater.page.locator("#clips .heard")).to_have_count(rater.page.locator("#clips .clip").count())
        rater.page.fill("#label", SCRIPT)
        rater.page.click("#labelling .main")
    for rater, rating in zip(raters, "35", strict=True):
        rater.page.click(f"#scale button[value='{rating}']")
        expect(rater.page.locator("#saved")).to_have_text("saved ✓")
    expect(page.locator("#status")).to_have_text("3 answers.")
    from ard.study import Store

    answers = Store(Run.load(folder).study).answers()
    assert [(one.rater, one.label, one.rating) for one in answers] == [("Anna", SCRIPT, 3), ("Björn", SCRIPT, 5)]
    for one in (*raters, steerer):
        one.leave()


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_is_wider_than_the_screen_and_every_control_has_a_name(browser, url, width):
    visitor = Guest(browser, url, viewport={"width": width, "height": 844})
    wide = "document.documentElement.scrollWidth > innerWidth"
    page = visitor.go("/listen")
    page.click("#clips button >> nth=5")
    expect(page.locator("#fired li").first).to_be_visible()
    assert not page.evaluate(wide)
    traces = [page.locator(f"#fired .trace{inside}").first.bounding_box()["width"] for inside in ("", " svg")]
    assert traces[0] == traces[1] > 200
    page.click("#steer")
    page.fill("#search", "so")
    page.press("#search", "Enter")
    page.fill("#search", "x" * 80)
    page.fill("#search", "")
    page.click("#ask")
    expect(page.locator("#status")).to_have_text("3 answers.")
    expect(page.locator("#stop")).to_be_hidden()  # the last control that comes and goes
    assert not page.evaluate(wide)
    for control in page.locator("button:visible, input:visible, select:visible, textarea:visible, a:visible").all():
        expect(control).to_have_accessible_name(re.compile(r"\w"))
    for control in page.locator("button:visible").all():
        assert control.bounding_box()["height"] >= 35
    visitor.leave()
