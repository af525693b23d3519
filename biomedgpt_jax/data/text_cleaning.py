"""How BiomedGPT's texts are cleaned before they become tokens."""

import re
import string

_LEADING = ",.!?*#:;~"
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def clean_question(text: str, words: int) -> str:
    """Lower case, no leading punctuation, hyphens and slashes as spaces, single spaces, the first `words` words."""
    text = text.lower().lstrip(_LEADING).replace("-", " ").replace("/", " ")
    return first_words(re.sub(r"\s+", " ", text).strip(), words)


def clean_caption(text: str, words: int) -> str:
    """As `clean_question`; a masked name is a person."""
    text = text.lower().lstrip(_LEADING).replace("-", " ").replace("/", " ").replace("<person>", "person")
    return first_words(re.sub(r"\s+", " ", text).strip(), words)


def without_punctuation(text: str, words: int) -> str:
    """ASCII punctuation taken out, letters as they are, the first `words` words."""
    return first_words(" ".join(text.translate(_PUNCTUATION).split()), words)


def first_words(text: str, words: int) -> str:
    """The first `words` words between single spaces."""
    return " ".join(text.split(" ")[:words])
