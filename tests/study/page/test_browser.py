"""The study in a real headless Chromium: people as they are, and a server that is killed under them."""

import json
import re
import shutil

import pytest
from playwright.sync_api import expect

from ard.cli import main
from ard.run import Run
from ard.study import Store
from tests.browser import Visitor, chromium, needs_chromium

from .conftest import NAMES

pytestmark = needs_chromium
NASTY = "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"


@pytest.fixture(scope="module")
def browser():
    with chromium() as started:
        yield started


class Person(Visitor):
    """A rater at a browser of their own, whose page must not have an error."""

    def __init__(self, browser, url, **settings):
        super().__init__(browser, **settings)
        self.url, self.answers = url, []
        self.page.on("response", lambda answer: self.answers.append(answer))

    def start(self, name):
        self.page.goto(self.url)
        self.page.fill("#person", name)
        self.page.keyboard.press("Enter")
        return self

    def at(self, place, total=6):
        expect(self.page.locator("#where")).to_have_text(f"Concept {place} of {total}")
        return self

    def hear(self):
        for clip in self.page.locator("#clips .clip").all():
            clip.locator(".play").click()
            expect(clip).to_have_class(re.compile("heard"))
        return self

    def label(self, text):
        self.hear().page.fill("#label", text)
        self.page.click("#labelling .main")
        expect(self.page.locator("#name")).not_to_be_empty()
        return self.page.inner_text("#name")

    def rate(self, rating):
        self.page.click(f"#scale button[value='{rating}']")
        expect(self.page.locator("#saved")).to_have_text("saved ✓")

    def next(self):
        self.page.click("#next")


def test_two_raters_at_once_a_kill_in_the_middle_and_the_export_complete(browser, run, server, tmp_path_factory):
    anna, bob = Person(browser, server.url).start("Anna"), Person(browser, server.url).start("Björn")
    expected, seen = {}, {"Anna": [], "Björn": []}
    for place in (1, 2, 3):
        for person, name in ((anna, "Anna"), (bob, "Björn")):  # turn by turn
            seen[name].append(person.at(place).label(f"{name} hears {place}"))
            person.rate((place + len(name)) % 6)
            expected[name, place] = (f"{name} hears {place}", (place + len(name)) % 6)
            person.next()
    assert seen["Anna"] != seen["Björn"]  # an order of their own

    anna.at(4).label("said before the kill")
    bob.at(4).hear().page.fill("#label", "typed before the kill")
    server.kill()
    anna.page.click("#scale button[value='2']")  # into the void
    bob.page.click("#labelling .main")
    for person in (anna, bob):
        expect(person.page.locator("#trouble")).to_contain_text("Not saved yet: the server cannot be reached")
    assert len(Store(Run(run).study).answers()) == 7  # what was confirmed is there: six whole, one label
    server.start()
    expect(anna.page.locator("#saved")).to_have_text("saved ✓", timeout=20000)
    expect(bob.page.locator("#name")).not_to_be_empty(timeout=20000)
    for person in (anna, bob):
        expect(person.page.locator("#trouble")).to_be_hidden()
    bob.rate(0)
    expected |= {("Anna", 4): ("said before the kill", 2), ("Björn", 4): ("typed before the kill", 0)}
    for place in (5, 6):
        for person, name in ((anna, "Anna"), (bob, "Björn")):
            person.next()
            person.at(place).label(NASTY)
            person.rate(5)
            expected[name, place] = (NASTY, 5)
    for person in (anna, bob):
        person.next()
        expect(person.page.locator("#finished")).to_be_visible()
        assert not person.errors

    store = Store(Run(run).study)
    order = {rater.name: [concept.key for concept in store.order(rater)] for rater in store.raters()}
    found = {(a.rater, order[a.rater].index(a.concept) + 1): (a.label, a.rating) for a in store.answers()}
    assert found == expected
    names = {concept.key: concept.name for concept in store.concepts}
    assert seen["Anna"] == [names[key] for key in order["Anna"][:3]]
    server.kill()
    main(["study", "export", "--run", str(run)])
    for name in ("ratings.csv", "label-studio.json"):
        other = tmp_path_factory.mktemp("other")
        shutil.copytree(run, other, dirs_exist_ok=True, ignore=shutil.ignore_patterns("study"))
        main(["study", "make", "--run", str(other), "--concepts", "3"])
        main(["study", "import", str(run / "study" / name), "--run", str(other)])
        assert Store(Run(other).study).answers() == store.answers()


def test_the_keyboard_is_enough(browser, url, store):
    anna = Person(browser, url)
    page = anna.page
    page.goto(url)
    page.keyboard.type("Anna")  # the field has the focus
    page.keyboard.press("Enter")
    anna.at(1)
    page.keyboard.press("Space")
    expect(page.locator("#clips .clip").nth(0)).to_have_class(re.compile("heard"))
    page.keyboard.type("two words")  # goes into the field, with its space
    expect(page.locator("#label")).to_have_value("two words")
    page.keyboard.press("Enter")
    expect(page.locator("#hint")).to_have_text("Please hear all 2 clips first: 1 to go.")
    page.keyboard.press("ArrowDown")
    expect(page.locator("#clips .clip").nth(1)).to_have_class(re.compile("heard"))
    page.keyboard.press("Enter")
    expect(page.locator("#name")).not_to_be_empty()
    for rating in "15":  # thinks better of it
        page.keyboard.press(rating)
        expect(page.locator(f"#scale button[value='{rating}']")).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("6")  # is nothing
    expect(page.locator("#saved")).to_have_text("saved ✓")
    page.keyboard.press("Enter")
    anna.at(2)
    page.keyboard.press("ArrowLeft")
    anna.at(1)
    page.keyboard.press("ArrowRight")
    anna.at(2)
    page.keyboard.press("0")  # no rating without a label: it is a word that begins
    expect(page.locator("#label")).to_have_value("0")
    (answer,) = store.answers()
    assert (answer.label, answer.rating, answer.first_rating, answer.num_changes) == ("two words", 5, 1, 1)
    assert not anna.errors


def test_going_back_closing_the_browser_and_coming_back_later(browser, url, store):
    anna = Person(browser, url).start("Anna")
    first = anna.at(1).label("first")
    anna.rate(3)
    anna.next()
    anna.at(2).page.fill("#label", "half a thou")
    anna.page.go_back()  # the browser's own button
    anna.at(1)
    expect(anna.page.locator("#name")).to_have_text(first)
    expect(anna.page.locator("#yours")).to_have_text("first")
    expect(anna.page.locator("#labelling")).to_be_hidden()  # a label that was followed by the name is final
    anna.rate(4)
    anna.next()
    anna.at(2)
    expect(anna.page.locator("#label")).to_have_value("half a thou")
    anna.page.reload()
    anna.at(2)
    kept = anna.context.storage_state()
    anna.close()

    again = Person(browser, url, storage_state=kept)  # the same browser, another day
    again.page.goto(url)
    expect(again.page.locator("#again")).to_have_text("Go on as Anna")
    again.page.click("#again")
    again.at(2)
    expect(again.page.locator("#label")).to_have_value("half a thou")

    elsewhere = Person(browser, url).start("anna")  # another browser
    expect(elsewhere.page.locator("#taken-said")).to_have_text(
        "“anna” has rated 1 of 6 concepts already. Are you this person?"
    )
    elsewhere.page.click("#resume")
    elsewhere.at(2)
    elsewhere.page.click("#back")
    expect(elsewhere.at(1).page.locator("#scale [aria-pressed='true']")).to_have_text("4")
    elsewhere.page.click("#leave")
    expect(elsewhere.page.locator("#welcome")).to_be_visible()
    assert [rater.name for rater in store.raters()] == ["Anna"]
    assert not anna.errors + again.errors + elsewhere.errors


def test_it_is_blind_and_runs_nothing_that_a_rater_typed(browser, url, store):
    anna = Person(browser, url).start("Anna")
    anna.at(1).hear()
    words = [name for names in NAMES.values() for name in names] + [c.key for c in store.concepts]
    words += ["Poly", "AR&D", "31415926"]
    bodies = [answer.text() for answer in anna.answers if "clips" not in answer.url]
    sent = anna.page.content() + " ".join(bodies) + " ".join(answer.url for answer in anna.answers)
    assert [word for word in words if word in sent or json.dumps(word)[1:-1] in sent] == []
    assert all(answer.url.startswith(url) for answer in anna.answers)
    expected = store.order(store.join("Anna"))[0].name
    assert anna.label(NASTY) == expected  # names hold < and & too
    expect(anna.page.locator("#yours")).to_have_text(NASTY)
    anna.rate(2)
    anna.page.reload()
    expect(anna.at(1).page.locator("#yours")).to_have_text(NASTY)
    assert anna.page.evaluate("window.hacked") is None
    assert store.answers()[0].label == NASTY
    assert not anna.errors


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_is_wider_than_the_screen_and_controls_are_large_enough_for_a_thumb(browser, url, width):
    anna = Person(browser, url, viewport={"width": width, "height": 844}).start("A person with a long name " * 2)
    wide = "document.documentElement.scrollWidth > innerWidth"
    anna.at(1)
    assert not anna.page.evaluate(wide)
    anna.label("word " * 30)
    assert not anna.page.evaluate(wide)
    for control in anna.page.locator("#concept button:visible").all():
        assert control.bounding_box()["height"] >= 44
    expect(anna.page.locator("#concept button:visible").first).to_have_accessible_name("Play clip 1")
    assert not anna.errors
