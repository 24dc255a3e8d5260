"""The report in a real headless Chromium, opened from disk: it plays, follows the sound, searches, and runs nothing."""

import itertools
import json
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from playwright.sync_api import expect

from ard.reports import write_report
from ard.reports.concepts import read_timelines
from experiments.bench.made_run import write_run
from tests.browser import Visitor, chromium, needs_chromium

pytestmark = needs_chromium
NASTY = "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>"
NAMES = [
    NASTY,
    "</script><script>window.hacked = 1</script>",
    "\u2028'\"`${window.hacked = 1}",
    "שלום עולם",
    "🐕‍🦺 " * 9,
    "long " * 80,
]
NUM_CONCEPTS, NUM_CLIPS = 60, 12


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Make a run, some of whose names, captions, ids and labels are not what one would wish, and its report."""
    run = write_run(tmp_path_factory.mktemp("made") / "a <b>&run", NUM_CONCEPTS, NUM_CLIPS, 1.0, num_sounds=8)
    rows, clips = run.own.rows("concepts"), pq.read_table(run.clips).to_pylist()
    selected = sorted((row for row in rows if row["selected"]), key=lambda row: -row["m"])
    for row, name in zip([row for row in selected if row["name"]], NAMES, strict=False):
        row |= {"name": name, "captions": [NASTY] * 4, "candidates": NAMES, "support": [NASTY], "made_from": NASTY}
    clips[0] |= {"caption": NASTY, "labels": [NASTY, "dog_bark"]}
    run.own.save_rows("concepts", rows)
    pq.write_table(pa.Table.from_pylist(clips), run.clips)
    write_report(run.folder)
    return run


@pytest.fixture(scope="module")
def browser():
    with chromium() as started:
        yield started


@pytest.fixture
def visitor(browser, made):
    visitor = Visitor(browser)
    yield visitor
    assert visitor.errors + visitor.complaints == []
    assert [url for url in visitor.requests if not url.startswith(("file://", "data:"))] == []
    assert visitor.page.evaluate("window.hacked") is None
    visitor.close()


def first_page(made, visitor):
    visitor.page.goto(made.report.as_uri())
    return visitor.page


def order_of(made):
    """Return the selected features in the order of the list, best first."""
    rows = sorted((row for row in made.own.rows("concepts") if row["selected"]), key=lambda row: -row["m"])
    return [row["feature"] for row in rows]


def features_in(page):
    """Return the features of the rows in the page, from the top."""
    where = "all => all.map((a) => [a.getBoundingClientRect().top, a.getAttribute('href')])"
    titles = sorted(page.locator("#list .row .title").evaluate_all(where))
    return [int(re.search(r"-(\d+)\.html", link)[1]) for _, link in titles]


def test_every_player_plays_and_none_loads_before(made, visitor):
    page = first_page(made, visitor)
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    assert not [url for url in visitor.requests if re.search(r"\.(flac|mp3)$", url)]
    for path in ("index.html", f"concepts/3-{order_of(made)[1]}.html"):
        page.goto((made.report.parent / path).as_uri())
        for details in page.locator("details:has(.strip)").all():
            details.locator("summary").click()
        strips = page.locator("#best .strip, .sounds .strip").all()
        assert len(strips) == (6 if path == "index.html" else 8)
        for strip in strips:
            strip.locator(".play").click()
            page.wait_for_function("() => ARD.current.currentTime > 0.02")
            expect(strip.locator(".play")).to_have_attribute("aria-pressed", "true")
            assert page.evaluate("[...document.querySelectorAll('audio')].filter(a => !a.paused).length") == 1


WHERE = """strip => new Promise((done) => requestAnimationFrame(() => done([strip.querySelector("audio").currentTime,
  Number(strip.dataset.level), parseFloat(strip.querySelector(".head").style.left),
  strip.querySelector(".now").textContent])))"""


def test_the_activation_follows_the_sound(made, visitor):
    feature = order_of(made)[2]
    page = visitor.page
    page.goto((made.report.parent / f"concepts/3-{feature}.html").as_uri())
    along, most = read_timelines(made.own)[feature][0], made.own.tensors("representatives")["max_activation"][feature]
    strip = page.locator(".sounds .strip").first
    times = [0.0]
    for _ in range(4):  # heard for a moment, then held
        strip.locator(".play").click()
        page.wait_for_function("time => ARD.current.currentTime > time + 0.08", arg=times[-1])
        strip.locator(".play").click()
        expect(strip.locator(".play")).to_have_attribute("aria-pressed", "false")
        time, level, head, said = page.evaluate(WHERE, strip.element_handle())
        assert level == pytest.approx(float(along[int(time / 0.04)] / most), abs=0.01)
        assert head == pytest.approx(100 * time, abs=0.1)  # of a second's clip, in percent
        assert said.startswith(f"{time:.1f} s · ")
        times.append(time)
    assert times == sorted(set(times))
    drawn = strip.locator(".along path").get_attribute("d")
    assert drawn.count("V") == len(along) + 1


def test_one_can_seek_by_click_and_by_key(made, visitor):
    page = visitor.page
    page.goto((made.report.parent / f"concepts/3-{order_of(made)[2]}.html").as_uri())
    strip = page.locator(".sounds .strip").nth(1)
    page.evaluate("window.times = []; addEventListener('timeupdate', (at) => times.push(at.target.currentTime), true)")
    box = strip.locator(".sight").bounding_box()
    strip.locator(".sight").click(position={"x": box["width"] * 0.6, "y": 5})
    page.wait_for_function("() => times.some((time) => time > 0.55)")
    page.wait_for_function("() => ARD.current.paused")  # its end
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    page.wait_for_function("() => Math.abs(ARD.current.currentTime - 0.1) < 0.02")
    expect(strip.locator(".sight")).to_have_attribute(
        "aria-valuetext", re.compile(r"0\.1 of 1\.0 seconds, activation \d+ percent")
    )


def test_search_sort_and_filter(made, visitor):
    page, rows = first_page(made, visitor), {row["feature"]: row for row in made.own.rows("concepts")}
    best = order_of(made)
    expect(page.locator("#count")).to_have_text(f"{NUM_CONCEPTS} concepts")
    assert features_in(page)[:8] == best[:8]
    page.fill("#query", str(best[30]))
    assert best[30] in features_in(page)
    page.fill("#query", "שלום")
    expect(page.locator("#count")).to_have_text(re.compile(rf"of {NUM_CONCEPTS} concepts"))
    page.fill("#query", "no such words")
    expect(page.locator("#nothing")).to_be_visible()
    page.fill("#query", "")
    page.select_option("#shown", "nameless")
    assert all(rows[feature]["name"] is None for feature in features_in(page))
    expect(page.locator("#count")).to_have_text(f"3 of {NUM_CONCEPTS} concepts")
    page.select_option("#shown", "fails")
    expect(page.locator("#list .row").first).to_contain_text("fails: purity is that of a random name")
    page.select_option("#shown", "all")
    page.select_option("#order", "n_active")
    counts = [rows[feature]["n_active"] for feature in features_in(page)]
    assert counts == sorted(counts, reverse=True)
    page.fill("#least", "10")
    assert all(rows[feature]["n_active"] >= 10 for feature in features_in(page))
    page.fill("#least", "")
    page.select_option("#order", "feature")
    assert features_in(page) == sorted(best)[: len(features_in(page))]


def test_only_rows_in_sight_are_in_the_page_and_all_can_be_reached_by_key(made, visitor):
    page, best = first_page(made, visitor), order_of(made)
    assert 8 <= page.locator("#list .row").count() < 30
    page.locator("#list").focus()
    page.keyboard.press("ArrowDown")
    for _ in range(14):
        page.keyboard.press("ArrowDown")
    assert f"-{best[14]}.html" in page.evaluate("document.activeElement.getAttribute('href')")
    page.keyboard.press("End")
    assert f"-{best[-1]}.html" in page.evaluate("document.activeElement.getAttribute('href')")
    row = page.locator(".row:focus-within")
    expect(row).to_have_attribute("aria-posinset", str(NUM_CONCEPTS))
    page.keyboard.press("Space")
    page.wait_for_function("() => ARD.current && ARD.current.currentTime > 0")
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_be_visible()
    page.go_back()
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "query"


ALONE = """place => {
  const [x, y] = ARD.browse.at(place);
  const far = ([a, b]) => Math.hypot(a - x, b - y) > 12;
  return x > 20 && y > 20 && ARD.concepts.places.every((one, id) => !one || id === place || far(ARD.browse.at(id)));
}"""


def test_the_map_plays_what_one_points_at(made, visitor):
    page, rows = first_page(made, visitor), {row["feature"]: row for row in made.own.rows("concepts")}
    best, canvas = order_of(made), page.locator("#map")
    kept = json.loads((made.report.parent / "map.json").read_text(encoding="utf-8"))
    place = next(
        place for place, feature in enumerate(best) if feature in kept["features"] and page.evaluate(ALONE, place)
    )
    x, y = page.evaluate("id => ARD.browse.at(id)", place)
    canvas.hover(position={"x": x, "y": y})
    expect(page.locator("#tip")).to_be_visible()
    canvas.click(position={"x": x, "y": y})
    expect(page.locator("#picked a")).to_have_attribute("href", f"concepts/3-{best[place]}.html")
    page.wait_for_function("() => ARD.current && ARD.current.currentTime > 0")
    expect(page.locator("#here")).to_contain_text("monosemanticity m")
    assert rows[best[place]]["name"][:20].strip() in page.locator("#picked").inner_text()
    canvas.focus()
    visited = {page.locator("#picked a").get_attribute("href")}
    for key in ("ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown"):
        page.keyboard.press(key)
        visited.add(page.locator("#picked a").get_attribute("href"))
    assert len(visited) > 2
    colours = {}
    for column in ("m", "purity", "modality"):
        page.select_option("#order", column)
        colours[column] = canvas.evaluate("c => c.toDataURL()")
    assert len(set(colours.values())) == 3
    page.check("#hover")
    page.evaluate("ARD.current.pause()")
    canvas.hover(position={"x": 3, "y": 3})
    canvas.hover(position={"x": x, "y": y})
    page.wait_for_function("() => ARD.current && !ARD.current.paused")


def test_names_from_elsewhere_are_shown_as_they_are_and_run_nothing(made, visitor):
    page, shown = first_page(made, visitor), []
    for row in sorted(
        (row for row in made.own.rows("concepts") if row["selected"] and row["name"]), key=lambda row: -row["m"]
    ):
        if row["name"] in NAMES:
            page.goto((made.report.parent / f"concepts/3-{row['feature']}.html").as_uri())
            shown.append(page.locator("h1").text_content())
            assert page.evaluate("window.hacked") is None
            assert not page.evaluate("document.documentElement.scrollWidth > innerWidth")
    assert [name.strip() for name in shown] == [name.strip() for name in NAMES]
    expect(page.locator(".candidates bdi")).to_have_count(len(NAMES))


def test_the_pages_lead_to_each_other(made, visitor):
    page, best = first_page(made, visitor), order_of(made)
    page.locator("#best h3 a").first.click()
    expect(page.locator("h1")).to_be_visible()
    page.goto((made.report.parent / f"concepts/3-{best[3]}.html").as_uri())
    page.keyboard.press("ArrowRight")
    expect(page).to_have_url(re.compile(rf"3-{best[4]}\.html"))
    links = page.locator("a").evaluate_all("all => all.map(a => a.getAttribute('href'))")
    for link in {link for link in links if not link.startswith("#")}:
        assert (made.report.parent / "concepts" / link.partition("#")[0]).resolve().is_file()


@pytest.mark.parametrize(("width", "scheme"), itertools.product([1280, 390], ["light", "dark"]))
def test_nothing_is_wider_than_the_screen_and_text_can_be_read(browser, made, width, scheme):
    visitor = Visitor(browser, viewport={"width": width, "height": 844}, color_scheme=scheme, reduced_motion="reduce")
    page = visitor.page
    for path in ("index.html", f"concepts/3-{order_of(made)[0]}.html"):
        page.goto((made.report.parent / path).as_uri())
        assert not page.evaluate("document.documentElement.scrollWidth > innerWidth")
        for text, back in (
            ("--ink", "--paper"),
            ("--soft", "--paper"),
            ("--accent", "--card"),
            ("--warm", "--card"),
            ("--bad", "--paper"),
        ):
            assert (
                contrast(page, text) / contrast(page, back) >= 4.5 or contrast(page, back) / contrast(page, text) >= 4.5
            )
        for control in page.locator("button.play:visible").all()[:12]:
            assert control.bounding_box()["height"] >= 40
            assert control.get_attribute("aria-label").startswith("Play: ")
        assert page.evaluate("getComputedStyle(document.documentElement).scrollBehavior") == "auto"
    assert visitor.errors + visitor.complaints == []
    visitor.close()


def contrast(page, variable):
    """Return the relative luminance of a colour plus .05, as WCAG 2 divides them."""
    text = page.evaluate("name => getComputedStyle(document.documentElement).getPropertyValue(name).trim()", variable)
    shares = [int(text[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True)) + 0.05
