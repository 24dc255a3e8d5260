"""Recognise answers that name nothing: they say so, refuse, or think aloud."""

import re

_NOTHING = re.compile(
    r"""^\W*(?:
      (?:none|null|nil|nan|n/?a|not\ (?:sure|clear)|unknown|undefined|undetermined|indeterminate|inconclusive|unclear
        |unspecified|nothing|error|tbd|empty|no|yes|cannot)\b\W*(?:$|\()
    | (?:none|nothing|neither)\ (?:of|in\ common|common|is|can|was|found)\b
    | not\ (?:applicable|available|enough|possible|determinable|specified|provided)\b
    | no\ (?:\w+\ )?(?:common|shared|single|clear|specific|consistent|obvious|discernible|apparent)\b
    | no\ (?:captions?|answer|response|concept|name|audio|data|information|input|match)\b
    | there\ (?:is|are|was|were|seems?\ to\ be|appears?\ to\ be|does)(?:n't|\ not|\ no|\ nothing)\b
    | (?:insufficient|inadequate)\ (?:\w+\ )?(?:information|data|context|details?|captions?)\b
    | (?:it\ is|it's|this\ is)\ (?:not\ (?:possible|clear)|impossible|unclear|difficult|hard)\b
    | (?:cannot|can't|can\ not|could\ not|couldn't|unable\ to|impossible\ to|difficult\ to|failed\ to)\ (?:be\ )?
      (?:determined?|identif(?:y|ied)|tell|say|said|answer(?:ed)?|find|found|name|describe|help|assist|provide|comply
        |fulfill?|process|hear|infer(?:red)?|conclude|discern|generate)\b
    | (?:the|these|all|your|those)\ (?:\w+\ )?(?:captions?|clips?|descriptions?)\ (?:\w+\ )?
      (?:(?:do|does|did|are|have|share|is)(?:n't|\ not|\ no|\ nothing)|(?:lack|vary|differ)s?)\b
    | 无法|不能确定|没有共同|无共同|无$|未知$
    )
    | \b(?:do|does)\ not\ (?:share|have)\b | \bno\ (?:common|shared)\ (?:sound|concept|theme|element)
    | \bcannot\ be\ (?:determined|identified)\b""",
    re.IGNORECASE | re.VERBOSE,
)
_REFUSAL = re.compile(
    r"""^\W*(?:
      (?:i|we)(?:'m|\ am|\ are|'re)\ (?:sorry|unable|afraid|not\ (?:able|sure|certain)
        |an?\ (?:\w+\ )*?(?:ai|llm|assistant|language\ model))\b
    | (?:i|we)\ (?:apologi[sz]e|regret|cannot|can't|can\ not|could\ not|couldn't|do\ not|don't|did\ not|didn't|won't
        |will\ not|must\ decline)\b
    | (?:sorry|apologies|my\ apologies|unfortunately)\b\W*(?:$|[,.!:;]|but\b|i\b|the\b|there\b|for\b)
    | as\ an?\ (?:\w+\ )*?(?:ai|language\ model|llm|assistant|text-based)\b
    | (?:please|could\ you|can\ you)\ (?:please\ )?(?:provide|share|clarify|give|specify)\b
    | (?:很|非常)?抱歉|对不起|我无法|作为(?:一个|一名)?(?:AI|人工智能|语言模型)
    | (?:lo\ siento|je\ suis\ désolée?|désolé|es\ tut\ mir\ leid|entschuldigung|申し訳|すみません|죄송)
    )""",
    re.IGNORECASE | re.VERBOSE,
)
_THINKING = re.compile(
    r"""^\W*(?:(?:okay|ok|alright|all\ right|hmm+|well|so|now|first)\b\W*)*
    (?:the\ user\b|user\ (?:wants|asks|is)\b|we\ (?:need|have|are|must|should)\b|let(?:\ me|'s|\ us)\b
      |i\ (?:need|have)\ to\b|i(?:'ll|\ will|\ should|\ must)\b|thinking\ process)""",
    re.IGNORECASE | re.VERBOSE,
)


def names_nothing(phrase: str) -> bool:
    """Return whether a phrase says that there is no name, refuses to give one, or thinks aloud about one."""
    return any(pattern.search(phrase) for pattern in (_NOTHING, _REFUSAL, _THINKING))
