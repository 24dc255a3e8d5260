"""The rating study (Sec. 4, Table 2): concepts drawn, labelled and rated by people, and what these say."""

from ard.study.draw import draw_concepts
from ard.study.exchange import labelling, read_answers, write_answers
from ard.study.functional import agreement
from ard.study.raters import ChatRater, Judgement, Rater, rate_study
from ard.study.scores import score_study
from ard.study.store import HIGHEST, Answer, Concept, RaterEntry, Store, StoreError

__all__ = [
    "HIGHEST",
    "Answer",
    "ChatRater",
    "Concept",
    "Judgement",
    "Rater",
    "RaterEntry",
    "Store",
    "StoreError",
    "agreement",
    "draw_concepts",
    "labelling",
    "rate_study",
    "read_answers",
    "score_study",
    "write_answers",
]
