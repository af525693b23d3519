"""Prompts, word limits and what the decoder is given, by hand; documents are cut inside their prompt."""

from dataclasses import replace

import pytest

from biomedgpt_jax.data.biomedgpt_tokens import BiomedGptTokens, train_biomedgpt_tokens
from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.pair_encoding import EncodedPair, TokenLimits, encode_pair_prompt, encode_pairs
from biomedgpt_jax.data.pair_tasks import PairRules, PairTask, Words
from biomedgpt_jax.data.source import Sample, Turn
from biomedgpt_jax.data.tasks import Overflow

LIMITS = TokenLimits(400, 400)
TEXTS = ["what is the summary of article? is there a fracture of the left femur in this chest x ray"] * 5


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> BiomedGptTokens:
    return train_biomedgpt_tokens(TEXTS, tmp_path_factory.mktemp("tokens"), 320, 16, 10)


def sample(question: str, answer: str, images: tuple[int, ...] = (7,), /, **meta) -> Sample:
    return Sample("s1", images, (Turn(question, answer),), meta)


def read(pair: EncodedPair, tokens: BiomedGptTokens) -> tuple[str, str, str]:
    """Source, given and target with the names of their special tokens."""
    source, given, target = (tokens.decode(ids, skip_special=False) for ids in (pair.source, pair.given, pair.target))
    return source, given, target


CASES = [
    (
        sample("<image>\n**Is the X-ray  A/P view", "  Yes ", task="vqa"),
        PairRules(),
        ("<s> is the x ray a p view?</s>", " is the x ray a p view?", " yes</s>"),
    ),
    (
        sample("Which plane?", "Axial", task="plane", organ="Chest"),
        PairRules(hint="organ", lower_answers=False),
        ("<s> which plane? object: chest</s>", " which plane? object: chest", " Axial</s>"),
    ),
    (
        sample("ignored", "Normal, benign", task="classification"),
        PairRules(),
        ("<s> what does the image describe?</s>", "", " normal, benign</s>"),
    ),
    (
        sample("ignored", "The heart, (mildly) enlarged; no X-ray.", task="caption"),
        PairRules(words=Words(80, 4)),
        ("<s> what does the image describe?</s>", "", " The heart mildly enlarged</s>"),
    ),
    (
        sample("x", "yes", (), task="nli", texts=["He has A/B pain.", "Pain"]),
        PairRules(),
        (
            '<s> can text1 " he has a b pain. " imply text2 " pain "?</s>',
            ' can text1 " he has a b pain. " imply text2 " pain "?</s>',
            " yes",
        ),
    ),
    (
        sample("Sum it up", "Cough: what helps?", (), task="summary", document="My Mother-in-law has a cough"),
        PairRules(),
        ('<s> what is the summary of article " my mother in law has a cough "?</s>', "", "cough: what helps?</s>"),
    ),
    (
        sample("Does it help", "maybe", (), task="question"),
        PairRules(),
        ("<s> does it help?</s>", " does it help?", " maybe</s>"),
    ),
    (
        sample("We saw 3. Does it help?", "maybe", (), context="We saw 3 cases.", question="Does it help?"),
        PairRules(),
        ('<s> what is the answer to question " does it help? " by article " we saw 3 cases. "?</s>', "", " maybe</s>"),
    ),
    (
        sample("List  the findings, then\nstop.", "None", task="x"),
        PairRules(task=PairTask.INSTRUCTION),
        ("<s> list the findings, then stop.</s>", "", " none</s>"),
    ),
]


@pytest.mark.parametrize(("asked", "rules", "expected"), CASES)
def test_prompts(asked: Sample, rules: PairRules, expected: tuple, tokens: BiomedGptTokens) -> None:
    (pair,) = encode_pairs(asked, rules, tokens, LIMITS, Overflow.ERROR)
    assert read(pair, tokens) == expected
    assert pair.hinted == (rules.hint is not None) and not pair.shortened
    prompt = encode_pair_prompt(asked, rules, tokens, LIMITS)
    assert read(prompt, tokens) == (*expected[:2], "") and (prompt.image, prompt.hinted) == (pair.image, pair.hinted)
    unanswered = replace(asked, turns=(Turn(asked.turns[0].question, ""),))
    assert encode_pair_prompt(unanswered, rules, tokens, LIMITS).source.tolist() == pair.source.tolist()


def test_words_of_a_question_are_limited(tokens: BiomedGptTokens) -> None:
    asked = sample(" ".join(f"w{n}" for n in range(100)), "yes", task="vqa")
    (pair,) = encode_pairs(asked, PairRules(), tokens, LIMITS, Overflow.ERROR)
    assert tokens.decode(pair.source) == " " + " ".join(f"w{n}" for n in range(80)) + "?"


@pytest.mark.parametrize(
    ("task", "source", "target"), [("caption", 0, 20), ("nli", 512, 0), ("summary", 900, 128), ("classification", 0, 0)]
)
def test_words_of_each_task(task: str, source: int, target: int, tokens: BiomedGptTokens) -> None:
    """Where 0 stands nothing is cut; a document is cut by tokens alone."""
    words = [f"w{n}" for n in range(900)]
    text = " ".join(words)
    asked = sample(text, text, () if source else (7,), task=task, texts=[text, text])
    (pair,) = encode_pairs(asked, PairRules(), tokens, TokenLimits(10**6, 10**6), Overflow.ERROR)
    read_words = tokens.decode(pair.source).split('"')[1].split() if source else []
    assert read_words == words[:source]
    assert tokens.decode(pair.target).split() == words[: target or 900]


def test_words_of_a_hint_are_limited(tokens: BiomedGptTokens) -> None:
    asked = sample("q", "yes", organ=" ".join(f"W{n}" for n in range(40)))
    (pair,) = encode_pairs(asked, PairRules(hint="organ"), tokens, LIMITS, Overflow.ERROR)
    assert tokens.decode(pair.given) == " q? object: " + " ".join(f"w{n}" for n in range(30))


def test_what_is_asked_stands_though_the_text_of_an_instruction_is_cut(tokens: BiomedGptTokens) -> None:
    note = "Word  word " * 300
    asked = sample(f"Is he ill?\n{note}\nSay yes or no.", "no", (), context=note)
    (pair,) = encode_pairs(asked, PairRules(task=PairTask.INSTRUCTION), tokens, TokenLimits(64, 30), Overflow.ERROR)
    text = tokens.decode(pair.source)
    assert len(pair.source) == 64 and pair.shortened
    assert text.startswith(" is he ill? word word") and text.endswith(" say yes or no.")
    small = sample("What is not so? no", "no", (), context="no")
    (pair,) = encode_pairs(small, PairRules(task=PairTask.INSTRUCTION), tokens, LIMITS, Overflow.ERROR)
    assert tokens.decode(pair.source) == " what is not so? no"


def test_documents_are_cut_inside(tokens: BiomedGptTokens) -> None:
    asked = sample("word " * 500, "short", (), task="summary")
    (pair,) = encode_pairs(asked, PairRules(), tokens, TokenLimits(64, 30), Overflow.ERROR)
    text = tokens.decode(pair.source)
    assert len(pair.source) == 64 and pair.shortened
    assert text.startswith(' what is the summary of article " word') and text.endswith(' "?')
    both = sample("x", "no", (), task="nli", texts=["a b " * 200, "c d"])
    (pair,) = encode_pairs(both, PairRules(), tokens, TokenLimits(90, 70), Overflow.ERROR)
    # The decoder repeats the source, so its limit counts too; 8 tokens stay free for any answer.
    assert len(pair.source) == 62 and pair.decoder_length == 61 + len(tokens.encode(" no"))
    assert ' imply text2 " c d "?' in tokens.decode(pair.source)


def test_turns_are_pairs_of_their_own(tokens: BiomedGptTokens) -> None:
    asked = Sample("s", (3,), (Turn("A?", "1"), Turn("B?", "2")), {"confidence": 0.5})
    pairs = encode_pairs(asked, PairRules(), tokens, LIMITS, Overflow.ERROR)
    assert [read(pair, tokens)[0] for pair in pairs] == ["<s> a?</s>", "<s> b?</s>"]
    assert [(pair.image, pair.weight) for pair in pairs] == [(3, 0.5)] * 2


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (sample("q", "...", task="caption"), "s1: the target of turn 1 is empty"),
        (sample("<image>", "x", task="vqa"), "s1: a question is empty"),
        (sample("q", "x", (1, 2), task="vqa"), "s1: 2 images, but this model reads one"),
        (sample("q", "x", (), task="nli", texts=["a"]), r"s1: meta.texts must be the two texts"),
        (sample("q", "x", confidence=0), "s1: meta.confidence is 0"),
        (sample("q " * 70, "x " * 400, task="vqa"), r"s1: .* source and .* decoder tokens, but the limits are 400"),
    ],
)
def test_samples_that_break_a_rule(asked: Sample, reason: str, tokens: BiomedGptTokens) -> None:
    with pytest.raises(DataError, match=reason):
        encode_pairs(asked, PairRules(), tokens, LIMITS, Overflow.ERROR)


def test_an_answer_may_have_a_limit_of_its_own(tokens: BiomedGptTokens) -> None:
    asked, limits = sample("q", "x " * 9, task="vqa"), TokenLimits(60, 60, answer=9)
    (pair,) = encode_pairs(asked, PairRules(), tokens, limits, Overflow.ERROR)
    assert len(pair.target) == 10 and not pair.shortened
    tight = replace(limits, answer=8)
    with pytest.raises(DataError, match="limits are 60 and 60 and 8 of an answer, which has 9"):
        encode_pairs(asked, PairRules(), tokens, tight, Overflow.ERROR)
    (cut,) = encode_pairs(asked, PairRules(), tokens, tight, Overflow.TRUNCATE)
    assert cut.target.tolist() == [*pair.target[:8], tokens.eos_id] and cut.shortened
    assert cut.source.tolist() == pair.source.tolist()


def test_truncation_keeps_the_ends(tokens: BiomedGptTokens) -> None:
    asked = sample("q", "x " * 400, task="vqa")
    (pair,) = encode_pairs(asked, PairRules(), tokens, TokenLimits(20, 30), Overflow.TRUNCATE)
    assert pair.decoder_length == 30 and pair.target[-1] == tokens.eos_id and pair.shortened
    with pytest.raises(DataError, match="none is left to learn"):
        encode_pairs(sample("q " * 60, "x", task="vqa"), PairRules(), tokens, TokenLimits(20, 30), Overflow.TRUNCATE)


def test_a_hint_must_exist(tokens: BiomedGptTokens) -> None:
    with pytest.raises(DataError, match=r"no text in meta\.organ"):
        encode_pairs(sample("q", "x"), PairRules(hint="organ"), tokens, LIMITS, Overflow.ERROR)
