"""The report: what a reader finds on its pages, with anything in a clip's id, and with files missing."""

import html.parser
import json
import math
import re
import shutil
import tarfile
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from ard.reports import write_report
from ard.reports.html import best_places
from ard.results import Figure, Result, Row
from ard.run import Run
from ard.types import UserError

from .conftest import NASTY, concept, write_about, write_concepts


class Page(html.parser.HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.words, self.open = [], [], []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.text = re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_data(self, data):
        if self.open[-1:] not in (["style"], ["script"]):
            self.words.append(data)

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass

    def all(self, tag, **wanted):
        return [found for name, found in self.tags if name == tag and wanted.items() <= found.items()]


def test_the_page_says_what_was_run(run):
    path = write_report(run)
    assert path == run / "report/index.html"
    text = Page(path).text
    for words in (
        "tiny <model>",
        "Simulated clips & nothing else.",
        "demo, 3",
        "1 of 3",
        "UTC",
        "ard 0.1.0",
        "3, e = 8",
    ):
        assert words in text


def listed(run):
    """Return the data of the list and the map."""
    text = (run / "report/assets/concepts.js").read_text(encoding="utf-8")
    assert "<" not in text
    return json.loads(text.removeprefix("ARD.concepts = ").removesuffix(";\n"))


def concept_page(run, feature):
    return Page(run / f"report/concepts/3-{feature}.html")


def test_concepts_are_sorted_by_m_and_dead_ones_are_left_out(run):
    page = Page(write_report(run))
    assert [link["href"] for link in page.all("a") if link["href"].startswith("concepts/")][:2] == [
        "concepts/3-7.html",
        "concepts/3-5.html",
    ]
    found = listed(run)
    assert found["feature"] == [7, 5]
    assert found["name"] == ["dog & <bark>", "name 5"]
    assert found["values"] == {
        "m": [9.25, 1.5],
        "detection": [0.934, 0.934],
        "agreement": [0.75, 0.75],
        "n_active": [8, 6],
    }
    assert sorted(path.name for path in (run / "report/concepts").iterdir()) == ["3-5.html", "3-7.html"]
    page = concept_page(run, 7)
    for words in (
        "9.25",
        "Active in 8 of 4 probing clips",
        "agreement 0.75",
        "detection 0.93",
        "Considered: dog · bark",
    ):
        assert words in page.text
    assert "a dog barks" in page.text
    assert "nan" not in page.text.lower().split()
    assert "None" not in page.text
    assert [link["href"] for link in page.all("a", rel="next")] == ["3-5.html"]
    assert not page.all("a", rel="prev")


def test_a_search_finds_what_is_said_of_the_clips_that_a_feature_is_active_in(run):
    write_report(run)
    assert listed(run)["words"][0] == "<script>alert(1)</script>\na dog barks\ndog\nbark\na dog & <i>rain</i>\nrain"


def test_every_clip_shown_has_its_audio_and_its_spectrogram_and_no_other(run):
    write_report(run)
    page = concept_page(run, 5)
    players = page.all("audio")
    assert len(players) == 4
    assert all(player["preload"] == "none" for player in players)
    shown = {player["src"] for player in players} | {picture["src"] for picture in page.all("img")}
    assert shown == {f"../audio/{path.name}" for path in (run / "report/audio").iterdir()}
    with tarfile.open(run / "audio/probe/000000.tar") as tar:
        original = tar.extractfile("000000.flac").read()
    assert original in [path.read_bytes() for path in (run / "report/audio").iterdir()]


def add_times(run, seconds_per_token=0.25 / 12):
    """Say how long a token of each clip is; 12 tokens are the first half of a clip. One is unknown."""
    clips = pq.read_table(run / "clips.parquet")
    times = pa.array([seconds_per_token, seconds_per_token, None, seconds_per_token], pa.float64())
    pq.write_table(clips.append_column("seconds_per_token", times), run / "clips.parquet")


def test_a_strip_says_where_a_feature_is_active(run):
    add_times(run)
    places = {"first": [[0, 2]], "last": [[3, 2]], "strongest": [[1, 2]]}
    stored = {f"ard/top_{name}": torch.tensor(rows * 8) for name, rows in places.items()}
    stored["ard/top_first"][7, 0] = -1  # silent
    cell = Run(run).cell(3, 8)
    cell.save_tensors("representatives", stored)
    assert "shaded" in Page(write_report(run)).text
    strips = concept_page(run, 5).all("div", **{"class": "strip"})
    shares = [[float(number) for number in strip.get("data-active", "").split()] for strip in strips]
    assert shares[0] == pytest.approx([0, 4 / 24, 1.5 / 24], abs=1e-3)
    assert shares[1] == pytest.approx([2 / 24, 3 / 24, 2.5 / 24], abs=1e-3)
    assert shares[2:] == [[], []]  # the least representative ones
    assert "data-active" not in concept_page(run, 7).all("div", **{"class": "strip"})[0]


def test_a_strip_has_the_activations_along_time_as_shares_of_the_maximum(run):
    add_times(run)
    cell = Run(run).cell(3, 8)
    most = torch.zeros(10)
    most[5] = 4.0
    cell.save_tensors("representatives", {"max_activation": most})
    values = torch.tensor([0.0, 4.0, 2.0, 0.001, 1.0], dtype=torch.float16)
    tensors = {"features": torch.tensor([5]), "offsets": torch.tensor([0, 4, 5]), "values": values}
    cell.save_tensors("timelines", tensors)
    write_report(run)
    strips = concept_page(run, 5).all("div", **{"class": "strip"})
    assert [strip.get("data-levels") for strip in strips] == ["00ff8001", "40", None, None]
    assert float(strips[0]["data-seconds-per-token"]) == 0.25 / 12
    assert not concept_page(run, 7).all("div", **{"class": "strip"})[0].get("data-levels")


def test_the_number_of_features_above_chance_is_said_where_it_is_known(run):
    assert "false-discovery rate" not in Page(write_report(run)).text
    row = Row("AR&D", 3, 8, {})
    choices, details = {"false_discovery_rate": 0.05}, {"num_above_chance": {"ard": 2, "mean": 1}, "num_live": 3}
    Result("monosemanticity", (row,), choices, details, 0, 1.0).save(run / "layer-3/e8/monosemanticity.json")
    assert "2 of 3 live features are above chance (false-discovery rate 5%)." in Page(write_report(run)).text


def test_all_text_is_escaped(run):
    pages = [Page(write_report(run)), concept_page(run, 5)]
    for page in pages:
        assert "<script>alert(1)</script>" in page.text
        assert all("src" in script for script in page.all("script"))
        assert not page.all("b", **{"&\"'": None})
        assert "<i>rain</i>" in page.text
    for clip_id in NASTY:
        assert clip_id in pages[1].text
    assert "broken <1>.wav" in pages[0].text
    assert "empty & silent" in pages[0].text


def test_nothing_is_fetched_from_elsewhere(run):
    first = Page(write_report(run))
    for page, root in ((first, ""), (concept_page(run, 5), "../")):
        (policy,) = page.all("meta", **{"http-equiv": "Content-Security-Policy"})
        assert "default-src 'none'; script-src 'self'" in policy["content"]
        assert "unsafe" not in policy["content"]
        links = [found.get(key) for _, found in page.tags for key in ("src", "href") if found.get(key)]
        allowed = ("#", "data:,", f"{root}audio/", f"{root}assets/", f"{root}concepts/", f"{root}index.html", "3-")
        assert all(link.startswith(allowed) for link in links)
        assert not any({"style", "onclick", "onerror"} & found.keys() for _, found in page.tags)
        assert not re.search(r"@import|url\(|https?://", page.source)


def test_controls_have_names(run):
    first = Page(write_report(run))
    for page in (first, concept_page(run, 5)):
        assert "lang" in page.all("html")[0]
        ids = [found["id"] for _, found in page.tags if "id" in found]
        assert len(ids) == len(set(ids))
        targets = {link["href"] for link in page.all("a") if link["href"].startswith("#")}
        assert targets <= {f"#{name}" for name in ids}
        assert all(strip["data-label"] for strip in page.all("div", **{"class": "strip"}))


def test_tables_and_truth_are_on_the_page(run):
    page = Page(write_report(run))
    text = page.text
    for words in ("Table 1. Evaluation", "Table 3.", "Table 4.", "[0.40, 0.60]", "2.13 ± 0.08", "share found", "0.97"):
        assert words in text
    # the label's best feature is a link where it has a page
    assert page.all("a", href="concepts/3-7.html")
    assert not page.all("a", href="concepts/3-9.html")
    assert concept_page(run, 7).text.count("The AUROC is that on unseen clips, where .5 is chance. dog") == 1
    assert "<wind>" in text
    assert "gamma" in text


def test_the_best_of_each_name_are_shown_first_and_none_that_fails():
    rows = [
        {"name": name, "passes": passes, "score": score}
        for name, passes, score in (
            ("rain", True, 0.1),
            (None, None, None),
            ("Rain", True, 0.7),
            ("wind", False, 0.9),
            ("dog", True, 0.5),
        )
    ]
    assert best_places(rows) == [2, 4]
    assert best_places([{"name": None}] * 3) == [0, 1, 2]
    assert best_places([]) == []


def test_without_embeddings_named_concepts_come_first_and_nothing_is_said_of_m(run):
    given = {"selected": True, "n_active": 4, "captions": []}
    write_concepts(
        run, [concept(n, math.nan, NASTY, name=name, **given) for n, name in ((2, None), (5, "rain"), (9, None))]
    )
    clips = pq.read_table(run / "clips.parquet").drop_columns("labels")
    labels = pa.array([["Bird_song"]] * 4, pa.list_(pa.string()))
    pq.write_table(clips.append_column("labels", labels).drop_columns("caption"), run / "clips.parquet")
    page = Page(write_report(run))
    assert "3 of them are concepts, and 1 of these have a name" in page.text
    assert "0 of 3" in page.text  # none is dead
    assert not page.all("p", **{"class": "score"})
    found = listed(run)
    assert found["feature"] == [5, 2, 9]
    assert [column["key"] for column in found["columns"]] == ["detection", "agreement", "n_active"]
    assert "Beside chance" not in concept_page(run, 5).text
    assert "Bird song" in concept_page(run, 5).text


def test_a_model_in_a_folder_is_called_by_its_name(run):
    write_about(run, model="/somewhere/whisper-base")
    page = Page(write_report(run))
    assert "Layer 3 of whisper-base , taken apart" in page.text
    assert "Concepts in whisper-base –" in page.text


def test_a_bare_run_still_has_a_page(run):
    for name in ("layer-3", "layer-1", "layer-2", "audio"):
        shutil.rmtree(run / name)
    (run / "clips.parquet").unlink()
    (run / "failures.json").unlink()
    text = Page(write_report(run)).text
    for words in ("no matching.json", "concepts.parquet is missing", "every clip was used", "no result files"):
        assert words in text


def test_missing_audio_numbers_and_names_are_said(run):
    shutil.rmtree(run / "audio")
    empty = {"name": None, "captions": None, "candidates": None, "agreement": math.nan, "top_ids": ["unknown"]}
    write_concepts(run, [concept(5, 2.0, NASTY, **empty)])
    page = Page(write_report(run))
    assert not page.all("audio")
    assert listed(run)["audio"] == [None]
    for words in ("unnamed", "no audio in this run’s shards", "unknown"):
        assert words in page.text


def test_what_supports_a_name_is_on_its_page(run):
    support = ["rain in 4 of 4 clips (29 of 1200 in all, q 0.001)", "<wind> in 2 of 4 clips"]
    write_concepts(run, [concept(5, 2.0, NASTY, made_from="a vocabulary: mine.txt", support=support)])
    write_report(run)
    page = concept_page(run, 5)
    assert all(line in page.text for line in support)
    assert "Made from a vocabulary: mine.txt" in page.text


def test_a_name_that_fails_is_shown_as_such_with_its_reason(run):
    axes = {"responsiveness": 0.4, "purity": math.nan, "sensitivity": 0.2, "intruder": 0.5, "score": 0.3}
    rows = [
        {"feature": 5, **axes, "passes": True, "fails": []},
        {"feature": 7, **axes, "passes": False, "fails": ["no <better>"]},
    ]
    cell = Run(run).cell(3, 8)
    cell.save_rows("axes", rows)
    cell.save_rows("modality", [{"feature": 7, "hearing": 0.25, "hearing_low": 0.1, "hearing_high": 0.4}])
    heard = {"feature": 7, "event": "dog <barking>", "event_told": True, "event_auroc": 0.875}
    cell.save_rows("timing", [heard, {**heard, "feature": 5, "event_told": False, "event_auroc": 0.5}])
    page = Page(write_report(run))
    links = [link["href"] for link in page.all("a") if link["href"].startswith("concepts/3") and len(link) == 1]
    assert links == ["concepts/3-5.html"]  # those of the best; that of a label's feature has a name of its own
    found = listed(run)
    assert (found["passes"], found["fails"]) == ([False, True], ["no <better>", ""])
    assert found["values"]["modality"] == [0.25, None]
    assert found["values"]["event_auroc"] == [0.875, 0.5]
    failing, passing = concept_page(run, 7), concept_page(run, 5)
    assert "This name fails no <better>" in failing.text
    assert "95 % interval [0.10, 0.40]" in failing.text
    assert "It tells when this is heard: dog <barking>" in failing.text
    assert "It is not shown to tell when a sound is heard: not even dog <barking>" in passing.text
    assert "The name passes" in passing.text
    (link,) = passing.all("a", rel="prev")
    assert link["class"] == "turn failing"
    assert failing.all("a", rel="next")[0]["class"] == "turn"
    assert "reads 0" not in passing.text
    cell.save_rows("axes", [{**row, "passes": False, "fails": ["no <better>"]} for row in rows])
    assert Page(write_report(run)).text.count("This name fails no <better>") == 2  # on the cards too, as none is better


def test_m_stands_beside_that_of_chance(run):
    m, by_chance = torch.linspace(0, 10, 20).double(), torch.linspace(-1, 1, 20).double()
    Run(run).cell(3, 8).save_tensors("selections", {"ard/m": m, "ard/m_by_chance": by_chance})
    write_report(run)
    page = concept_page(run, 5)
    assert "It was not compared with chance." in page.text
    assert "clips drawn at random" in page.text
    assert len(page.all("path", **{"class": "random"})) == 1


def test_writing_again_leaves_no_old_audio_and_no_old_page(run):
    write_report(run)
    (run / "report/concepts/my-notes.html").touch()  # which no report wrote
    write_concepts(run, [concept(5, 2.0, NASTY, bottom_ids=[])])
    write_report(run)
    assert len(list((run / "report/audio").iterdir())) == 4  # two clips, and their spectrograms
    assert sorted(path.name for path in (run / "report/concepts").iterdir()) == ["3-5.html", "my-notes.html"]
    assert not list(run.rglob("*.partial"))


def test_unreadable_audio_is_left_out(run):
    shard = run / "audio/probe/000000.tar"
    with tarfile.open(shard) as tar:
        tar.extractall(run / "unpacked", filter="data")
    (run / "unpacked/000001.flac").write_bytes(b"not audio")
    with tarfile.open(shard, "w") as tar:
        for path in sorted((run / "unpacked").iterdir()):
            tar.add(path, path.name)
    write_report(run)
    assert len(concept_page(run, 5).all("audio")) == 3


@pytest.mark.parametrize(
    "file", ["layer-3/e8/concepts.parquet", "layer-3/e8/steering.json", "clips.parquet", "failures.json"]
)
def test_a_damaged_file_is_named(run, file):
    (run / file).write_bytes(b"{")
    with pytest.raises(UserError, match=rf"{file}' is damaged \(.*\): delete it, and run what made it again"):
        write_report(run)


def test_a_damaged_shard_is_named(run):
    shard = next((run / "audio").rglob("*.tar"))
    shard.write_bytes(b"{")
    with pytest.raises(UserError, match=rf"{shard.name}' is damaged \(file could not be opened"):
        write_report(run)


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"holds no run.json"):
        write_report(tmp_path)
    assert not (tmp_path / "report").exists()


def test_the_gains_stand_first_and_have_no_columns_of_the_paper(run):
    figures = {name: Figure(0.1, 0.05, 0.2, 3, "share", over="clips") for name in ("trained", "untrained", "gain")}
    figures["untrained"] = replace(figures["untrained"], spread=0.01)
    Result("gain", (Row("matching/f1", 3, 8, figures),), {"num_draws": 3}).save(run / "layer-3/e8/gain.json")
    first, second, *_ = re.findall(r"<table>.*?</table>", write_report(run).read_text(encoding="utf-8"), re.DOTALL)
    assert "F1 (Table 1)" in first
    assert 'class="paper"' not in first
    assert 'class="paper"' in second
