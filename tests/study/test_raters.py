import pytest

from ard.naming import Chat, Reply
from ard.study import ChatRater, Judgement, Rater, rate_study
from ard.types import UserError


class Parrot(Chat):
    """Answers what it is told to, by kind of question, and keeps what it was asked."""

    def __init__(self, folder, label="a dog", rating="4"):
        super().__init__("parrot-7b", folder / "answers.jsonl", 16)
        self.says, self.asked = (label, rating), []

    def _ask(self, prompts, keep):
        for key, prompt in prompts.items():
            self.asked.append(prompt)
            keep(key, Reply(self.says["How well" in prompt]))


def test_a_chat_is_a_rater_of_a_kind_of_its_own(store, tmp_path):
    chat = Parrot(tmp_path)
    rater = ChatRater(chat)
    assert isinstance(rater, Rater)
    rate_study(store, rater)
    assert {(a.rater, a.kind, a.label, a.rating) for a in store.answers()} == {("parrot-7b", "llm", "a dog", 4)}
    assert len(store.answers()) == 10
    rate_study(store, ChatRater(chat))  # asks nothing twice, and agrees with itself
    assert len(chat.asked) == 20


def test_it_labels_before_it_sees_the_name(store, tmp_path):
    chat = Parrot(tmp_path)
    ChatRater(chat)(store.concepts[:1])
    (concept, *_) = store.concepts
    first, second = chat.asked
    said = f"in common: {concept.name}\n"
    assert said not in first
    assert said in second
    assert all(caption in question for caption in concept.captions for question in (first, second))


def test_concepts_without_captions_are_refused(store, tmp_path):
    silent = [concept._replace(captions=()) for concept in store.concepts[:3]]
    with pytest.raises(
        UserError, match=r"3 concepts of the study have no captions .*: name them from captions, or have"
    ):
        ChatRater(Parrot(tmp_path))(silent)


@pytest.mark.parametrize("answer", ["4", " 4.", "Rating: 4", "4/5", "**4**", "<think>maybe 3? or 2</think>\n4"])
def test_digits_are_read(store, tmp_path, answer):
    (judged,) = ChatRater(Parrot(tmp_path, rating=answer))(store.concepts[:1])
    assert judged == Judgement("a dog", 4)


@pytest.mark.parametrize(
    "answer", ["6", "10", "-1", "4.5", "four", "", "between 3 and 4", "3 4", "I would say 4", "NaN"]
)
def test_what_is_no_digit_from_0_to_5_becomes_no_rating(store, tmp_path, answer):
    assert rate_study(store, ChatRater(Parrot(tmp_path, rating=answer))) == [Judgement(unanswered="unreadable")] * 10
    assert {(a.label, a.rating, a.unanswered) for a in store.answers()} == {(None, None, "unreadable")}


def test_a_question_that_is_not_answered_has_no_rating(store, tmp_path):
    class Mute(Chat):
        def _ask(self, prompts, keep):
            for key in prompts:
                keep(key, Reply(None, "the prompt is refused: too long", lasts=True))

    (judged,) = ChatRater(Mute("mute", tmp_path / "answers.jsonl", 16))(store.concepts[:1])
    assert judged == Judgement(unanswered="unreadable")


@pytest.mark.parametrize(("label", "rating"), [("CANNOT", "4"), ("a dog", "Cannot.")])
def test_it_may_say_that_it_cannot_tell(store, tmp_path, label, rating):
    assert ChatRater(Parrot(tmp_path, label, rating))(store.concepts[:1]) == [Judgement(unanswered="cannot tell")]


@pytest.mark.parametrize("label", ["", "x" * 300, "..."])
def test_a_label_that_is_none_is_unreadable(store, tmp_path, label):
    assert ChatRater(Parrot(tmp_path, label))(store.concepts[:1]) == [Judgement(unanswered="unreadable")]
