"""What is asked of the small AudioLLM and what it should answer; how the small CLAP hears things called."""

from collections.abc import Mapping, Sequence

import numpy as np

from ard.audio.synthetic import EMOTIONS, EVENTS, GENDERS, Scene

CAPTION_PROMPT = "Generate a detailed caption for the audio clip"
EMOTION_PROMPT = "What emotion does the speaker show (neutral, happy, sad, angry)?"
GENDER_PROMPT = "Can you tell the speaker's gender from the audio (Male or Female)?"
NO_SPEAKER = "no speaker"

PARAPHRASES: Mapping[str, Sequence[str]] = {
    CAPTION_PROMPT: (
        "Describe the audio.",
        "What do you hear?",
        "What sounds are in this clip?",
        "Generate a caption for the audio clip.",
        "Please describe the sound in detail.",
    ),
    EMOTION_PROMPT: (
        "What is the emotion of the speaker?",
        "What emotion does the speaker show?",
        "How does the speaker feel (neutral, happy, sad, angry)?",
        "Which emotion do you hear in the voice?",
    ),
    GENDER_PROMPT: (
        "Is the speaker male or female?",
        "What is the gender of the speaker?",
        "Can you tell the speaker's gender from the audio?",
        "Is this the voice of a man or a woman?",
    ),
}
PROMPTS: tuple[str, ...] = tuple(PARAPHRASES)


def answer(scene: Scene, prompt: str) -> str:
    """The right answer to one of :data:`PROMPTS`."""
    if prompt == CAPTION_PROMPT:
        return scene.caption
    return (scene.emotion if prompt == EMOTION_PROMPT else scene.gender) or NO_SPEAKER


def ask(rng: np.random.Generator, scene: Scene) -> tuple[str, str]:
    """Draw a prompt, in its own words or others, and its answer; speech is asked about the speaker more often."""
    prompt = str(rng.choice(PROMPTS, p=(0.4, 0.3, 0.3) if scene.gender else (0.9, 0.05, 0.05)))
    words = prompt if rng.random() < 0.6 else str(rng.choice(PARAPHRASES[prompt]))
    return words, answer(scene, prompt)


OTHER_WORDS: Mapping[str, Sequence[str]] = {
    "dog barking": ("a dog barks", "barking dog"),
    "cat meowing": ("a cat meows", "meowing cat"),
    "bird chirping": ("birds chirping", "a bird sings"),
    "crow cawing": ("a crow caws", "cawing crow"),
    "frog croaking": ("a frog croaks", "croaking frogs"),
    "cricket chirping": ("crickets", "a chirping cricket"),
    "bee buzzing": ("a bee buzzes", "buzzing bees"),
    "owl hooting": ("an owl hoots", "hooting owl"),
    "cow mooing": ("a cow moos", "mooing cow"),
    "rain": ("rain falling", "rainfall"),
    "wind": ("wind blowing", "a howling wind"),
    "thunder": ("a thunderstorm", "thunder rumbling"),
    "ocean waves": ("waves on the shore", "the sea"),
    "water bubbling": ("bubbling water", "bubbles in water"),
    "water dripping": ("dripping water", "drops of water drip"),
    "fire crackling": ("a crackling fire", "fire burning"),
    "church bell": ("a church bell rings", "bells tolling"),
    "doorbell": ("a doorbell rings", "door chime"),
    "telephone ringing": ("a phone rings", "ringing telephone"),
    "alarm clock": ("an alarm beeps", "alarm clock beeping"),
    "siren": ("a siren wails", "emergency siren"),
    "car horn": ("a car honks", "honking horn"),
    "engine idling": ("an idling engine", "a motor running"),
    "helicopter": ("a helicopter flies", "helicopter rotor"),
    "vacuum cleaner": ("vacuuming", "a vacuum cleaner hums"),
    "drilling": ("a drill", "drilling with a power drill"),
    "referee whistle": ("a referee blows a whistle", "whistle blown by a referee"),
    "keyboard typing": ("typing on a keyboard", "someone types"),
    "clock ticking": ("a clock ticks", "ticking clock"),
    "glass breaking": ("glass shatters", "breaking glass"),
    "hammering": ("a hammer hits metal", "hammer blows"),
    "door knocking": ("knocking on a door", "someone knocks"),
    "footsteps": ("someone walks", "steps walking"),
    "applause": ("people clapping", "clapping hands"),
    "drum roll": ("drums rolling", "a snare drum"),
    "wood sawing": ("sawing wood", "a saw cuts wood"),
    "piano music": ("a piano plays", "playing the piano"),
    "baby crying": ("a baby cries", "crying infant"),
    "snoring": ("someone snores", "a snoring person"),
    "person whistling": ("someone whistles a tune", "whistling a melody"),
    "man speaking": ("a man talks", "male voice", "male speech"),
    "woman speaking": ("a woman talks", "female voice", "female speech"),
    "neutral voice": ("a neutral tone of voice", "neutral speech"),
    "happy voice": ("a happy tone of voice", "happy speech"),
    "sad voice": ("a sad tone of voice", "sad speech"),
    "angry voice": ("an angry tone of voice", "angry speech"),
}
"""Two or three other ways to say each label."""

FRAMES: Sequence[str] = ("the sound of {}", "{} can be heard", "a recording of {}", "{} in the background", "{} sound")


def say(rng: np.random.Generator, scene: Scene) -> tuple[str, frozenset[str]]:
    """Draw a text that is true of a scene, and the labels that it tells of: all of them or, at times, one."""
    told = frozenset(scene.labels)
    if len(told) > 1 and rng.random() < 0.3:
        told = frozenset([str(rng.choice(scene.labels))])
    if len(told) == len(scene.labels) and (scene.gender or rng.random() < 0.5):
        text = scene.caption
    else:
        names = [
            name if rng.random() < 0.6 else str(rng.choice(OTHER_WORDS[name])) for name in rng.permutation(sorted(told))
        ]
        text = " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
    return (str(rng.choice(FRAMES)).format(text) if rng.random() < 0.2 else text), told


def near_miss(rng: np.random.Generator, scene: Scene) -> Scene:
    """A scene that differs in one thing: an event dropped, added or exchanged, or the speaker's gender or emotion."""
    if scene.gender and rng.random() < 0.7:
        if rng.random() < 0.3:
            return scene._replace(gender=next(gender for gender in GENDERS if gender != scene.gender))
        return scene._replace(emotion=str(rng.choice([emotion for emotion in EMOTIONS if emotion != scene.emotion])))
    kept = set(scene.events)
    drop = len(kept) > (0 if scene.gender else 1) and rng.random() < 0.5
    if kept and (drop or rng.random() < 0.7):
        kept.remove(str(rng.choice(scene.events)))
    if not drop:
        kept.add(str(rng.choice([event for event in EVENTS if event not in scene.events])))
    return scene._replace(events=tuple(event for event in EVENTS if event in kept))


def all_texts(scenes: Sequence[Scene]) -> list[str]:
    """Everything that may be said, to train a tokenizer on: captions, prompts, answers, and labels in all words."""
    prompts = [words for prompt in PROMPTS for words in (prompt, *PARAPHRASES[prompt])]
    labels = [words for label in OTHER_WORDS for words in (label, *OTHER_WORDS[label])]
    answers = [NO_SPEAKER, "neutral", "happy", "sad", "angry", "male", "female"]
    return [*(scene.caption for scene in scenes), *(10 * [*prompts, *labels, *answers, *FRAMES])]
