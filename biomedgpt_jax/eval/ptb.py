"""The words of a caption as pycocoevalcap compares them, without its Java program.

pycocoevalcap calls Stanford's PTBTokenizer (CoreNLP 3.4.1) in lower case and drops its list of marks. The rules here
are those of that tokenizer for English text as captions and reports have it. Brackets become words such as "-lrb-", as
there: the list names them in capital letters, and so does not drop them.
"""

import re

_DROPPED = frozenset(("''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"))
_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
_CURLY = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u00a3": "#"})
# Keep their full stop; those of the second line only before a number.
_ABBREVIATED = (
    "adj|adm|adv|asst|bart|bldg|brig|bros|capt|cmdr|col|comdr|con|corp|cpl|dr|drs|ens|gen|gov|hon|hosp|"
    "insp|lt|maj|messrs|mlle|mme|mr|mrs|ms|msgr|mt|op|ord|pfc|ph|prof|pvt|rep|reps|res|rev|rt|sen|sens|"
    "sfc|sgt|sr|st|supt|surg|inc|jr|ltd|co|etc|al|esp|vs|seq|dept|est|ave|blvd|rd|jan|feb|mar|apr|jun|jul|"
    "aug|sep|sept|oct|nov|dec"
)
_BEFORE_NUMBER = "art|fig|no|nos|pp|p"
_PART = r"[^\W_]"
_TOKEN = re.compile(
    "|".join(
        (
            rf"(?:{_BEFORE_NUMBER})\.(?=\s*\d)",
            rf"(?:{_ABBREVIATED})\.(?!{_PART})",
            rf"(?:[^\W\d_]\.)+(?!{_PART})",  # e.g., a.m., the initial of a name
            r"can(?=not\b)|gon(?=na\b)|got(?=ta\b)|wan(?=na\b)",
            rf"{_PART}+?(?=n't\b)|n't\b|'(?:s|m|d|re|ve|ll)\b",
            r"\d+/\d+(?:/\d+)?(?![\w/.])",
            rf"[+-]?(?>\d*(?:[.,:]?\d+)+(?:-\d+)*)(?!{_PART}|[-&@]{_PART})",  # 1,000 10:30 5-6 .05
            rf"[+-]?(?>\d+(?:[.,]\d+)+)(?={_PART})",  # a number before its unit: 1.5 cm
            rf"@?{_PART}+(?:[-/&@._]{_PART}+)*",
            r"\.{2,}|-{2,}|[?!]{2,}",
            r"\S",
        )
    )
)


def caption_words(text: str) -> list[str]:
    """The words that captions are compared by; the result is that of pycocoevalcap's tokenizer, marks dropped."""
    found = _TOKEN.findall(text.lower().translate(_CURLY))
    return [word for token in found if (word := _written(token)) not in _DROPPED]


def _written(token: str) -> str:
    if token in _BRACKETS:
        return _BRACKETS[token]
    if token == '"':
        return "''"
    return re.sub(r"^\.{2,}$", "...", re.sub("^-{2,}$", "--", token))
