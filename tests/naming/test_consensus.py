import torch

from ard.naming import Concepts, ConsensusNamer
from ard.naming.consensus import parts, phrases


def space(**places):
    """Embed texts where the test puts them, and all others at right angles to the clips."""
    return lambda texts: torch.tensor([places.get(text.replace(" ", "_"), [0.0, 1.0]) for text in texts])


CLIPS = torch.tensor([[1.0, 0.0]] * 4)


def name_of(captions, embed):
    (name,) = ConsensusNamer()(Concepts(torch.arange(4)[None], [captions], CLIPS, embed))
    return name


def test_a_caption_without_words_in_common_says_why():
    assert name_of(["a dog", "rain"], space()).reason == "the captions agree on nothing"


def test_phrases_neither_start_nor_end_with_an_empty_word():
    assert phrases("A dog, barking in the rain.") == {
        "dog",
        "barking",
        "rain",
        "dog barking",
        "barking in the rain",
        "dog barking in the rain",
    }


def test_a_caption_is_cut_at_its_punctuation_and_empty_words():
    assert parts("A dog's bark; the rain -- and rain, in a wind-chime.") == ["dog's bark", "rain", "wind-chime"]
    assert parts("a man speaking in a sad voice") == ["man speaking", "sad voice"]
    assert parts("of the, and!") == parts("") == []
    caption = "the wood is sawing and an owl"
    assert set(parts(caption)) <= phrases(caption)


def test_the_name_is_the_agreed_phrase_that_is_closest_to_the_clips():
    embed = space(rain=[1.0, 0.0], dog_barking=[0.8, 0.6])
    captions = ["dog barking, rain", "rain and a dog barking", "rain, siren, dog barking", "a dog barking in the rain"]
    name = name_of(captions, embed)
    assert name.name == "rain"
    assert name.candidates == ["rain", "dog barking"]  # not "dog", which says less than what as many captions share
    assert name.agreement == 1.0


def test_more_agreement_goes_before_closeness():
    assert name_of(["rain and wind", "rain and wind", "wind", "siren"], space(rain=[1.0, 0.0])).name == "wind"


def test_captions_that_share_nothing_give_no_name():
    for captions in (["dog", "cat", "cow", "bee"], ["rain", "rain", "dog", "cat", "cow"], [], ["", "", ""]):
        assert name_of(captions, space()).name is None
