from .draw import draw_concepts
from .exchange import labelling, read_answers, write_answers
from .functional import agreement
from .raters import ChatRater, Judgement, Rater, rate_study
from .scores import score_study
from .store import HIGHEST, Answer, Concept, RaterEntry, Store, StoreError

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
