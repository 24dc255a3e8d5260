"""Names from a list of phrases: the list itself, and names held to the truth of the synthetic corpus."""

from pathlib import Path

import pytest
import torch
from scipy.stats import binom

from ard.audio.synthetic import LABELS
from ard.naming import Concepts, VocabularyNamer, read_vocabulary
from ard.naming.vocabulary import SHIPPED
from ard.types import UserError

SHIPPED_LISTS = {
    "audioset": (527, "CC BY-SA 4.0"),
    "fsd50k": (200, "CC BY 4.0"),
    "music": (201, ""),
    "voices": (115, ""),
}


@pytest.fixture
def true_list(tmp_path):
    path = tmp_path / "true.txt"
    path.write_text("\n".join(LABELS), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("name", SHIPPED_LISTS)
def test_a_shipped_list_is_whole_and_states_its_source_and_licence(name):
    phrases = read_vocabulary(name)
    num_phrases, licence = SHIPPED_LISTS[name]
    assert len(phrases) == num_phrases
    assert VocabularyNamer(name).phrases == phrases
    lines = (SHIPPED / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    head = " ".join(line for line in lines if line.startswith("#"))
    assert (licence or "Written for this project, under its licence.") in head
    assert len(lines) == num_phrases + sum(line.startswith("#") for line in lines)  # none twice


def test_the_page_lists_what_is_shipped():
    page = Path("docs/naming.md").read_text(encoding="utf-8")
    assert SHIPPED_LISTS.keys() == {path.stem for path in SHIPPED.glob("*.txt")}
    for name, (num_phrases, licence) in SHIPPED_LISTS.items():
        (row,) = [line for line in page.splitlines() if line.startswith(f"| `{name}` | {num_phrases} |")]
        assert (licence or "our own words") in row


def test_a_list_of_ones_own_is_read_as_people_write_it(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_bytes("\ufeff# birds\r\n\r\n  Robin \r\nsea   gull\r\nrobin\r\n#wren\r\nKäuzchen".encode())
    assert read_vocabulary(str(path)) == ["Robin", "sea gull", "Käuzchen"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "cannot be read .No such file or directory.: choose one of .'audioset', 'fsd50k', 'music', 'voices'."),
        (b"owl\nk\xe4uzchen\n", "is not UTF-8 text .invalid continuation byte at byte 5.: save it as UTF-8"),
        (b"# nothing\n\n", "has no phrase: give one a line"),
        (b"owl\n" + b"a long story " * 20, "line 2 of vocabulary .* is no phrase .'a long story"),
        (b"owl\nno\x00phrase", "line 2 of vocabulary .* is no phrase"),
    ],
)
def test_a_list_that_is_none_is_refused_in_one_line(tmp_path, content, says):
    path = tmp_path / "mine.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=says) as refused:
        VocabularyNamer(str(path)).check()
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1])
def test_a_rate_is_a_share(rate):
    with pytest.raises(UserError, match="is out of range: give a share between 0 and 1"):
        VocabularyNamer(rate=rate).check()


def test_names_are_true_of_clips_that_share_a_label(truth, true_list):
    names = VocabularyNamer(true_list)(truth.concepts)
    right = [name.name == label for name, label in zip(names, truth.labels, strict=True)]
    assert len(right) >= 30
    assert sum(right) >= 0.75 * len(right)
    for name in names:
        if name.name is not None:
            assert name.phrases[0] == name.candidates[0]
            assert name.name == " and ".join(name.phrases)
            assert all(" of 4 clips (contrast " in support for support in name.support)


def test_random_clips_have_no_name_beyond_the_rate(truth, true_list):
    for rate in (0.05, 0.2):
        num_named = sum(name.name is not None for name in VocabularyNamer(true_list, rate=rate)(truth.random))
        assert 0 < num_named <= binom.ppf(0.999, len(truth.random.top_ids), rate)


def test_contrast_beats_cosine_where_a_list_has_phrases_that_are_close_to_everything(truth, tmp_path):
    words = {word for label in LABELS for word in label.split()}
    others = [one for one in read_vocabulary("audioset") if not words & set(one.lower().replace(",", "").split())]
    phrases = [*LABELS, *others]
    path = tmp_path / "long.txt"
    path.write_text("\n".join(phrases), encoding="utf-8")
    names = VocabularyNamer(str(path), rate=0.999)(truth.concepts)
    cosine = truth.concepts.clips.mean(dim=1) @ truth.concepts.embed(phrases).T
    closest = [phrases[row] for row in cosine.argmax(dim=1).tolist()]
    by_contrast, by_cosine = (
        sum(phrase == label for phrase, label in zip(of_all, truth.labels, strict=True))
        for of_all in ([name.candidates[0] for name in names], closest)
    )
    assert by_contrast > by_cosine


def test_a_name_that_is_withheld_says_why(true_list):
    generator = torch.Generator().manual_seed(0)
    clips = torch.nn.functional.normalize(torch.randn(50, 8, generator=generator), dim=1)
    concepts = Concepts(torch.arange(8).reshape(2, 4), (), clips, lambda texts: torch.eye(8)[: len(texts)])
    namer = VocabularyNamer(true_list, rate=0.0001)
    namer.phrases = ["owl", "rain"]
    for name in namer(concepts):
        assert name.name is None
        assert name.reason.startswith("no phrase stands out: at best ")
        assert name.reason.partition(": at best ")[2].startswith(name.candidates[0])
    single = torch.eye(8).repeat(50, 1)[: 8 * 50]
    single[1:, 0] = 0  # the owl is heard in one clip alone
    single = torch.nn.functional.normalize(single + 1e-3, dim=1)
    namer.rate = 0.05
    (name,) = namer(Concepts(torch.tensor([[0, 2, 3, 4]]), (), single, lambda texts: torch.eye(8)[[0, 5]]))
    assert name.reason.startswith("no phrase that stands out is in two clips: at best owl in 1 of 4 clips (contrast ")
