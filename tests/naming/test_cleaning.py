import pytest

from ard.naming.cleaning import clean_name

NAMES = {
    '"Dog barking."': "dog barking",
    "Concept: Dog Barking": "dog barking",
    "**Dog barking**": "dog barking",
    "`dog_barking`": "dog_barking",
    "- Footsteps": "footsteps",
    "Here is the concept:\n\n1. Rain on a roof\n2. other": "rain on a roof",
    "Sure! The concept is: bells": "bells",
    'Concept (short phrase): "Male speech, happy tone"\nExplanation: it is.': "male speech, happy tone",
    "The common sound-related concept present among these captions is the sound of a dog barking.": "dog barking",
    "The common theme among these captions is the presence of birdsong (chirping).": "birdsong",
    "The sounds common to these captions are laughter and applause.": "laughter and applause",
    "All captions describe a man speaking. He is angry.": "man speaking",
    "Vehicle engine - the captions mention cars": "vehicle engine",
    "Engine sounds, particularly motorcycles and cars that pass by on a busy road at night": "engine sounds",
    "<think>Dogs? Cats?\n\nCats.</think>\n\nCat meowing": "cat meowing",
    "Children's laughter": "children's laughter",
    "Music: jazz": "music: jazz",
    "St. Bernard barking": "st. bernard barking",
    "The sound of rain": "sound of rain",
    "Nothing but wind": "nothing but wind",
    "狗叫": "狗叫",
}
NONE = [
    *(
        "",
        " \n ",
        "...",
        "123",
        "None",
        "none.",
        "Answer: none",
        '"N/A"',
        "No common concept",
        "There is no common sound.",
    ),
    *("The captions do not share a concept.", "I'm sorry, I cannot tell.", "<think>never ends", "Here it is:"),
    "one two three four five six seven eight nine ten eleven twelve thirteen",
    "z" * 101,
]


@pytest.mark.parametrize("answer", NAMES)
def test_an_answer_is_one_short_phrase(answer):
    assert clean_name(answer) == NAMES[answer]


@pytest.mark.parametrize("answer", NAMES.values())
def test_what_is_clean_stays_as_it_is(answer):
    assert clean_name(answer) == answer


@pytest.mark.parametrize("answer", NONE)
def test_what_names_nothing_is_no_name(answer):
    assert clean_name(answer) is None
