"""The report: what a reader finds on the page, with anything in a clip's id, and with files missing."""

import html.parser
import math
import re
import shutil
import tarfile
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch
from safetensors.torch import save_file

from ard.reports import html as report_html
from ard.reports import write_report
from ard.reports.sounds import HEIGHT, NUM_BARS, waveform_path
from ard.results import Figure, Result, Row
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


def test_concepts_are_sorted_by_m_and_dead_ones_are_left_out(run):
    page = Page(write_report(run))
    cards = page.all("article")
    assert [card["data-feature"] for card in cards] == ["7", "5"]
    assert [card["data-m"] for card in cards] == ["9.25", "1.5"]
    assert cards[0]["data-name"] == "dog & <bark>"
    for words in (
        "9.25",
        "active in 8 of 4 clips",
        "agreement 0.75",
        "detection 0.93",
        "Considered: dog · bark",
        "a dog barks",
    ):
        assert words in page.text
    assert "nan" not in page.text.lower().split()
    assert "None" not in page.text


def test_every_clip_shown_has_its_audio_and_no_other(run):
    page = Page(write_report(run))
    players = page.all("audio")
    assert len(players) == 8
    assert all(player["preload"] == "none" for player in players)
    shown = {player["src"] for player in players}
    assert shown == {f"audio/{path.name}" for path in (run / "report/audio").iterdir()}
    waves = {found["id"] for found in page.all("path") if "id" in found}
    assert {use["href"].removeprefix("#") for use in page.all("use")} == waves
    with tarfile.open(run / "audio/probe/000000.tar") as tar:
        original = tar.extractfile("000000.flac").read()
    assert original in [path.read_bytes() for path in (run / "report/audio").iterdir()]


def test_waveforms_show_where_a_feature_is_active(run):
    assert "shaded" not in Page(write_report(run)).text
    clips = pq.read_table(run / "clips.parquet")
    times = pa.array([0.25 / 12, 0.25 / 12, None, 0.25 / 12], pa.float64())  # tokens of the first half of a clip
    pq.write_table(clips.append_column("seconds_per_token", times), run / "clips.parquet")
    places = {"first": [[0, 2]], "last": [[3, 2]], "strongest": [[1, 2]]}
    stored = {f"ard/top_{name}": torch.tensor(rows * 8) for name, rows in places.items()}
    stored["ard/top_first"][7, 0] = -1  # silent
    save_file(stored, run / "layer-3/e8/representatives.safetensors")
    page = Page(write_report(run))
    assert "shaded" in page.text
    width = 2 * NUM_BARS
    first, second, *others = [(float(tag["x"]), float(tag["width"])) for tag in page.all("rect", **{"class": "active"})]
    assert first == pytest.approx((width * 2 / 24, width / 24), abs=0.1)  # feature 7, its second clip: token 2 of 24
    assert second == pytest.approx((0, width * 4 / 24), abs=0.1)
    assert len(others) == 1
    strongest = [tag["d"] for tag in page.all("path", **{"class": "strongest"})]
    assert strongest == [f"M{round(width * token / 24, 1)} 0v{HEIGHT}" for token in (2.5, 1.5, 2.5)]


def test_the_number_of_features_above_chance_is_said_where_it_is_known(run):
    assert "false-discovery rate" not in Page(write_report(run)).text
    row = Row("AR&D", 3, 8, {})
    choices, details = {"false_discovery_rate": 0.05}, {"num_above_chance": {"ard": 2, "mean": 1}, "num_live": 3}
    Result("monosemanticity", (row,), choices, details, 0, 1.0).save(run / "layer-3/e8/monosemanticity.json")
    assert "2 of 3 live features are above chance (false-discovery rate 5%)." in Page(write_report(run)).text


def test_all_text_is_escaped(run):
    page = Page(write_report(run))
    assert "<script>alert(1)</script>" in page.text
    assert len(page.all("script")) == 1
    assert not page.all("b", **{"&\"'": None})
    assert "<i>rain</i>" in page.text
    for clip_id in NASTY:
        assert clip_id in page.text
    assert "broken <1>.wav" in page.text
    assert "empty & silent" in page.text


def test_nothing_is_fetched_from_elsewhere(run):
    page = Page(write_report(run))
    links = [found.get(key) for _, found in page.tags for key in ("src", "href") if found.get(key)]
    assert all(link.startswith(("#", "audio/")) for link in links)
    assert not re.search(r"@import|url\(|https?://", page.source)


def test_controls_have_names(run):
    page = Page(write_report(run))
    assert all(button["aria-label"] for button in page.all("button"))
    assert "lang" in page.all("html")[0]
    ids = [found["id"] for _, found in page.tags if "id" in found]
    assert len(ids) == len(set(ids))
    assert {link["href"] for link in page.all("a")} <= {f"#{name}" for name in ids}


def test_tables_and_truth_are_on_the_page(run):
    page = Page(write_report(run))
    text = page.text
    for words in ("Table 1. Evaluation", "Table 3.", "Table 4.", "[0.40, 0.60]", "2.13 ± 0.08", "share found", "0.97"):
        assert words in text
    # the label's best feature is a link where its card is on the page
    assert page.all("a", href="#feature-7")
    assert not page.all("a", href="#feature-9")
    assert "<wind>" in text
    assert "gamma" in text


def test_only_so_many_concepts_are_shown(run, monkeypatch):
    monkeypatch.setattr(report_html, "NUM_SHOWN", 1)
    page = Page(write_report(run))
    assert len(page.all("article")) == 1
    assert "The 1 of highest m are shown, of 2" in page.text


def test_without_embeddings_named_concepts_come_first_and_nothing_is_said_of_m(run):
    given = {"selected": True, "n_active": 4, "captions": []}
    write_concepts(
        run, [concept(n, math.nan, NASTY, name=name, **given) for n, name in ((2, None), (5, "rain"), (9, None))]
    )
    clips = pq.read_table(run / "clips.parquet").drop_columns("labels")
    labels = pa.array([["Bird_song"]] * 4, pa.list_(pa.string()))
    pq.write_table(clips.append_column("labels", labels).drop_columns("caption"), run / "clips.parquet")
    page = Page(write_report(run))
    assert [card["data-feature"] for card in page.all("article")] == ["5", "2", "9"]
    assert "3 of them are concepts, and 1 of these have a name" in page.text
    assert "0 of 3" in page.text  # none is dead
    assert "monosemanticity m" not in page.text
    assert not page.all("p", **{"class": "score"})
    assert [option["value"] for option in page.all("option")] == ["named", "active", "name", "feature"]
    assert "In quotation marks" not in page.text
    assert "Bird song" in page.text


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
    for words in ("unnamed", "no audio in this run's shards", "unknown"):
        assert words in page.text


def test_what_supports_a_name_is_on_its_card(run):
    support = ["rain in 4 of 4 clips (29 of 1200 in all, q 0.001)", "<wind> in 2 of 4 clips"]
    write_concepts(run, [concept(5, 2.0, NASTY, made_from="a vocabulary: mine.txt", support=support)])
    page = Page(write_report(run))
    assert " · ".join(support) in page.text
    assert "from a vocabulary: mine.txt" in page.text


def test_writing_again_leaves_no_old_audio(run):
    write_report(run)
    write_concepts(run, [concept(5, 2.0, NASTY, bottom_ids=[])])
    write_report(run)
    assert len(list((run / "report/audio").iterdir())) == 2
    assert not list(run.rglob("*.partial"))


def test_unreadable_audio_is_left_out(run):
    shard = run / "audio/probe/000000.tar"
    with tarfile.open(shard) as tar:
        tar.extractall(run / "unpacked", filter="data")
    (run / "unpacked/000001.flac").write_bytes(b"not audio")
    with tarfile.open(shard, "w") as tar:
        for path in sorted((run / "unpacked").iterdir()):
            tar.add(path, path.name)
    assert len(Page(write_report(run)).all("audio")) == 6


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"holds no run.json"):
        write_report(tmp_path)
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize("num_samples", [0, 1, 50, 16000])
def test_a_waveform_stays_in_its_box(num_samples):
    rng = np.random.default_rng(num_samples)
    bars = re.findall(r"M(\d+) ([\d.]+)v([\d.]+)", waveform_path(rng.normal(size=num_samples).astype("float32")))
    assert len(bars) == NUM_BARS
    assert all(float(y) >= 0 and float(y) + float(h) <= HEIGHT + 0.1 for _, y, h in bars)


def test_a_louder_stretch_is_drawn_taller(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.r_[np.zeros(800), 0.5 * np.ones(800)], 16000)
    samples, _ = soundfile.read(tmp_path / "a.wav", dtype="float32")
    heights = [float(h) for h in re.findall(r"v([\d.]+)", waveform_path(samples))]
    assert max(heights[: NUM_BARS // 2 - 1]) < min(heights[NUM_BARS // 2 + 1 :])


def test_the_gains_stand_first_and_have_no_columns_of_the_paper(run):
    figures = {name: Figure(0.1, 0.05, 0.2, 3, "share", over="clips") for name in ("trained", "untrained", "gain")}
    figures["untrained"] = replace(figures["untrained"], spread=0.01)
    Result("gain", (Row("matching/f1", 3, 8, figures),), {"num_draws": 3}).save(run / "layer-3/e8/gain.json")
    first, second, *_ = re.findall(r"<table>.*?</table>", write_report(run).read_text(encoding="utf-8"), re.DOTALL)
    assert "F1 (Table 1)" in first
    assert 'class="paper"' not in first
    assert 'class="paper"' in second
