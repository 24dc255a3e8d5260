"""FSD50K in the layout of its archives (the collection as FSD50K.doc/README.md describes it)."""

import os

import pytest

from ard.audio import FSD50K
from ard.types import UserError

FILES = {
    "FSD50K.ground_truth/vocabulary.csv": """\
0,Accelerating_and_revving_and_vroom,/m/07q2z82
5,Animal,/m/0jbk
14,Bird,/m/015p6
41,Coin_(dropping),/m/0242l
71,Engine_starting,/t/dd00130
192,Wild_animals,/m/01280g
""",
    "FSD50K.ground_truth/eval.csv": """\
fname,labels,mids
51690,"Bird,Wild_animals,Animal","/m/015p6,/m/01280g,/m/0jbk"
173989,Coin_(dropping),/m/0242l
18442,"Engine_starting,Accelerating_and_revving_and_vroom","/t/dd00130,/m/07q2z82"
99,Animal,/m/0jbk
""",
    "FSD50K.ground_truth/dev.csv": """\
fname,labels,mids,split
64760,"Bird,Wild_animals,Animal","/m/015p6,/m/01280g,/m/0jbk",train
16399,Coin_(dropping),/m/0242l,val
""",
    "FSD50K.metadata/collection/vocabulary_collection_eval.csv": """\
20,Bee_and_wasp_and_etc.,/m/01h3n
82,Coin_(dropping),/m/0242l
127,Engine_starting,/t/dd00130
216,Owl,/m/09d5_
""",
    "FSD50K.metadata/collection/collection_eval.csv": """\
fname,labels,mids
51690,Owl,/m/09d5_
173989,"Coin_(dropping),Bee_and_wasp_and_etc.","/m/0242l,/m/01h3n"
18442,Engine_starting,/t/dd00130
99,,
""",
}


@pytest.fixture
def fsd50k(tmp_path, write_sound):
    root = tmp_path / "FSD50K"
    for name, content in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content, encoding="utf-8")
    for name in ("eval_audio/51690", "eval_audio/173989", "eval_audio/99", "dev_audio/64760", "dev_audio/16399"):
        write_sound(root / f"FSD50K.{name}.wav", 44100)
    os.truncate(root / "FSD50K.eval_audio/99.wav", 30)
    return root


def test_smeared_labels_are_the_ground_truth(fsd50k, round_trip):
    corpus = FSD50K(fsd50k)
    clips, failures = round_trip(corpus)
    assert len(corpus) == 4
    assert {name: clip.labels for name, clip in clips.items()} == {
        "51690": ("Bird", "Wild_animals", "Animal"),
        "173989": ("Coin_(dropping)",),
    }
    assert {(clip.dataset, clip.sample_rate_hz) for clip in clips.values()} == {("FSD50K-eval", 44100)}
    assert failures == {"18442": "missing", "99": "unreadable: its content cannot be decoded"}
    assert [item.id for item in corpus] == ["51690", "173989", "18442", "99"]


def test_leaf_labels_are_those_of_the_raters(fsd50k, round_trip, write_sound):
    write_sound(fsd50k / "FSD50K.eval_audio/99.wav")
    clips, failures = round_trip(FSD50K(fsd50k, labels="leaf"))
    assert {name: clip.labels for name, clip in clips.items()} == {
        "51690": ("Owl",),
        "173989": ("Coin_(dropping)", "Bee_and_wasp_and_etc."),
        "99": (),
    }
    assert list(failures) == ["18442"]


def test_dev_has_a_column_more(fsd50k, round_trip):
    clips, failures = round_trip(FSD50K(fsd50k, "dev"))
    assert {name: (clip.dataset, clip.labels[0]) for name, clip in clips.items()} == {
        "64760": ("FSD50K-dev", "Bird"),
        "16399": ("FSD50K-dev", "Coin_(dropping)"),
    }
    assert failures == {}


def test_a_label_outside_the_vocabulary_is_refused(fsd50k):
    table = fsd50k / "FSD50K.ground_truth/eval.csv"
    table.write_text(table.read_text(encoding="utf-8").replace("Wild_animals", "Wild animals"), encoding="utf-8")
    with pytest.raises(
        UserError, match=r"clip 51690 of .*eval.csv' has the label 'Wild animals', which is not in .*vocab"
    ):
        FSD50K(fsd50k)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (
            "eval.csv",
            b"fname,label\n1,Bird\n",
            r"has no clips, or not the columns 'fname' and 'labels' but \['fname', 'label'\]",
        ),
        ("eval.csv", b"fname,labels,mids\n", "has no clips, or not the columns"),
        (
            "eval.csv",
            b"fname,labels,mids\n1,Bird\n",
            r"row 2 of .*eval.csv' is malformed or repeats a clip \(\['1', 'Bird'\]\)",
        ),
        ("eval.csv", b"fname,labels,mids\n1,Bird,m\n1,Bird,m\n", "row 3 of .*repeats a clip"),
        ("eval.csv", b"", "is empty, or has rows of fewer than 2 columns"),
        ("eval.csv", b"\xff\x00", "is not a table of FSD50K"),
        ("vocabulary.csv", b"Bird\n", "vocabulary.csv' is empty, or has rows of fewer than 2 columns"),
    ],
)
def test_a_table_that_is_none_is_refused(fsd50k, name, content, said):
    (fsd50k / "FSD50K.ground_truth" / name).write_bytes(content)
    with pytest.raises(UserError, match=said + ".*: unpack it again"):
        FSD50K(fsd50k)


@pytest.mark.parametrize("missing", ["eval_audio", "ground_truth/eval.csv", "ground_truth/vocabulary.csv"])
def test_a_folder_with_a_part_missing_is_refused(fsd50k, missing):
    (fsd50k / f"FSD50K.{missing}").rename(fsd50k / "elsewhere")
    with pytest.raises(UserError, match=rf"FSD50K.{missing}' does not exist: give the folder where FSD50K's archives"):
        FSD50K(fsd50k)


def test_leaf_labels_need_the_metadata(fsd50k):
    with pytest.raises(UserError, match=r"collection_dev.csv' does not exist"):
        FSD50K(fsd50k, "dev", labels="leaf")
