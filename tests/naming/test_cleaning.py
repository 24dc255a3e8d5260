import pytest

from ard.naming.cleaning import clean_name
from ard.naming.final import final_words
from experiments.torture.names import try_texts

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


RAW = {
    # reasoning models whose thoughts arrive with the answer
    "Okay, the user wants the common sound.\nDogs?\n</think>\n\nDog barking": "dog barking",
    "<think>\n\n</think>\n\nDog barking": "dog barking",
    "<thinking>Rain or wind?</thinking>\nRain on a window": "rain on a window",
    "[THINK]The captions mention bells.[/THINK]Church bells": "church bells",
    "<thought>cars</thought>Car engine": "car engine",
    "◁think▷Let me see.◁/think▷Birdsong": "birdsong",
    "<|begin_of_thought|>Hmm.<|end_of_thought|><|begin_of_solution|>Wind<|end_of_solution|>": "wind",
    "<|START_THINKING|>a horn<|END_THINKING|><|START_RESPONSE|>Car horn<|END_RESPONSE|>": "car horn",
    "<seed:think>a cat</seed:think>Cat meowing": "cat meowing",
    "<think>Let me think about <b>dogs": None,
    "Dog barking</think>": None,
    "Okay, the user wants the common sound. Let me look at the captions. The first one": None,
    "We need to find the common concept. The captions mention": None,
    "Let's look at the captions one by one.": None,
    "<think>a</think><answer>Dog barking</answer>": "dog barking",
    "Let's think step by step.\nAll mention dogs.\nFinal answer: Dog barking": "dog barking",
    "Reasoning: dogs everywhere.\n\n**Answer:**\n\nDog barking": "dog barking",
    # gpt-oss
    "<|channel|>analysis<|message|>Dogs.<|end|><|start|>assistant<|channel|>final<|message|>Dog barking<|return|>": (
        "dog barking"
    ),
    "<|channel|>analysis<|message|>We need to answer in one phrase": None,
    "analysisWe need one phrase. Dogs.assistantfinalDog barking": "dog barking",
    "analysisWe need one phrase. The captions": None,
    # Llama
    "Dog barking<|eot_id|>": "dog barking",
    "<|start_header_id|>assistant<|end_header_id|>\n\nDog barking<|eot_id|>": "dog barking",
    "assistant\n\nDog barking": "dog barking",
    "Dog barking<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nThanks": "dog barking",
    "The common sound-related concept is: **Dog barking**.": "dog barking",
    "<|python_tag|>": None,
    "<s>[INST] Describe [/INST] Dog barking</s>": "dog barking",
    # Qwen
    "Dog barking<|im_end|>": "dog barking",
    "<|im_start|>assistant\nDog barking<|im_end|>\n<|im_start|>user\nMore": "dog barking",
    "<|im_start|>user\nDescribe<|im_end|>\n<|im_start|>assistant\nDog barking<|im_end|>": "dog barking",
    "<|im_end|>\n<|im_start|>user\nDescribe the sound": None,
    "<|endoftext|>": None,
    "\\boxed{Dog barking}": "dog barking",
    "The answer is \\(\\boxed{\\text{Dog barking}}\\).": "dog barking",
    "抱歉,我无法确定。": None,
    "作为一个AI语言模型,我无法听声音。": None,
    "狗叫声。": "狗叫声",
    '<tool_call>\n{"name": "listen", "arguments": {}}\n</tool_call>': None,
    # Mistral
    "Dog barking</s>": "dog barking",
    " Dog barking.": "dog barking",
    # Gemma
    "Dog barking<end_of_turn>\n<eos>": "dog barking",
    "model\nDog barking": "dog barking",
    "<start_of_turn>model\nDog barking<end_of_turn>": "dog barking",
    "<|channel>thought\nDogs?<channel|>Dog barking<turn|>": "dog barking",
    "<unused94>thought\nDogs?<unused95>Dog barking": "dog barking",
    # DeepSeek
    "<think>\nDogs.\n</think>\n\n**Dog barking**<｜end▁of▁sentence｜>": "dog barking",
    # data in place of words
    '{"concept": "Dog barking"}': "dog barking",
    '```json\n{\n  "name": "Dog barking"\n}\n```': "dog barking",
    'Here is the concept:\n\n```json\n{"concept": "Dog barking", "confidence": 0.9}\n```': "dog barking",
    '["Dog barking"]': "dog barking",
    "{'concept': 'Dog barking'}": "dog barking",
    '{"concept": null}': None,
    '{"concept": "None"}': None,
    '{"concept": "Dog bar': None,
    "{}": None,
    "```\nDog barking\n```": "dog barking",
    "<p>Dog <b>barking</b></p>": "dog barking",
    "<sound>Dog barking</sound>": "dog barking",
    # characters
    "Dog&nbsp;barking &amp; howling": "dog barking & howling",
    "Dog&#39;s bark": "dog's bark",
    "\ufeffDog\u200b barking\u200d": "dog barking",
    "Dog\u00a0barking\r\n": "dog barking",
    "‘Dog barking’": "dog barking",
    "Children’s laughter": "children's laughter",
    "# Dog barking": "dog barking",
    "\x1b[1mDog barking\x1b[0m": "dog barking",
    # refusals
    "I’m sorry, but I can’t determine a common concept.": None,
    "I can’t help with that.": None,
    "As an AI language model, I cannot hear audio.": None,
    "I apologize, but the captions are too different.": None,
    "Not applicable": None,
    "Not applicable.": None,
    "Cannot determine": None,
    "Cannot be determined from the captions.": None,
    "Unable to identify a shared sound": None,
    "Unfortunately, there isn’t a common concept.": None,
    "There is no single sound.": None,
    "Insufficient information": None,
    "The captions don’t share anything.": None,
    "Please provide the captions.": None,
    "Lo siento, no puedo.": None,
    "N/A (no common concept)": None,
    # names that look like refusals
    "Unknown language speech": "unknown language speech",
    "Error beep": "error beep",
    "Nothing but silence": "nothing but silence",
    "No speech, only music": "no speech, only music",
    "Sorry spoken by a woman": "sorry spoken by a woman",
    "AI voice assistant speaking": "ai voice assistant speaking",
    "Thinking aloud": "thinking aloud",
    "Model train": "model train",
    "User interface clicks": "user interface clicks",
    "Male voice (answering a question)": "male voice",
}


@pytest.mark.parametrize("answer", RAW)
def test_a_raw_answer_of_a_model_is_the_name_it_holds_in_the_end_or_none(answer):
    assert clean_name(answer) == RAW[answer]


@pytest.mark.slow
def test_any_text_is_a_name_that_holds_its_contract_or_none():
    try_texts(100)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ("A dog barks, then it rains.</s>", "A dog barks, then it rains."),
        ("<think>5?</think>\nIt agrees.\nRating: 1<|im_end|>", "It agrees.\nRating: 1"),
        ("3, 1", "3, 1"),
        ("x < y > z {a} [b] *c*", "x < y > z {a} [b] *c*"),
        ("<think>5", ""),
    ],
)
def test_final_words_are_all_that_is_said_and_nothing_else(raw, words):
    assert final_words(raw) == words
