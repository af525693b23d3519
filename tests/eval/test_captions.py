"""The words of captions, METEOR, and the protocols that use them; against the Java programs where there is Java."""

import json
import random
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from biomedgpt_jax.core.errors import RunError
from biomedgpt_jax.data.sets.vqa_rad import QUESTIONS
from biomedgpt_jax.eval import meteor
from biomedgpt_jax.eval.protocol import Said
from biomedgpt_jax.eval.protocols import BIOMEDGPT_CAPTION_V1, CAPTION_V1, REPORT_V1
from biomedgpt_jax.eval.ptb import caption_words

TEXTS = {
    "The heart size is normal (see below). No effusion/pneumothorax!": "the heart size is normal -lrb- see below -rrb- "
    "no effusion/pneumothorax",
    "A 3.5 x 2.1cm mass in the patient's left lung; follow-up CT isn't needed...": "a 3.5 x 2.1 cm mass in the patient "
    "'s left lung follow-up ct is n't needed",
    '"X-ray, PA view": 50% stenosis, T2-weighted MRI & PET/CT at 10:30 a.m.': "x-ray pa view 50 % stenosis t2-weighted "
    "mri & pet/ct at 10:30 a.m.",
    "Dr. Smith: T12-L1 fracture [arrow] -- 1,000 mg/dL, <5 mm, 5-6 mm, cannot exclude": "dr. smith t12-l1 fracture "
    "-lsb- arrow -rsb- 1,000 mg/dl < 5 mm 5-6 mm can not exclude",
    "H&E stain, x40, Fig. 1a, C5/6 disc, 12/05/2010, +/- 2 cm, e.g. no. 5": "h&e stain x40 fig. 1a c5/6 disc "
    "12/05/2010 + / 2 cm e.g. no. 5",
}  # fmt: skip
# (answer, reference, METEOR as version 1.5 prints it), and METEOR of all of them together.
PAIRS = (
    ("heart size is normal", "the heart is normal in size", 0.37055341301116146),
    ("the lungs are clear", "no acute disease", 0.0),
    ("no acute disease", "no acute disease", 1.0),
    ("a feline runs fast", "the cat runs quickly", 0.22928143777071625),
    ("mild enlargement of the hearts", "the heart is mildly enlarged", 0.27791689426753485),
)
ALL_PAIRS = 0.2925124513589259


@pytest.mark.parametrize("text", TEXTS)
def test_words_of_captions(text):
    assert caption_words(text) == TEXTS[text].split()


def test_words_are_those_of_the_java_tokenizer(tmp_path, shared_data):
    """On the texts above and on those of VQA-RAD."""
    theirs = pytest.importorskip("pycocoevalcap.tokenizer.ptbtokenizer", reason="pycocoevalcap is not installed")
    if (java := shutil.which("java")) is None:
        pytest.skip("there is no Java runtime")
    rows = json.loads(next(shared_data.rglob(QUESTIONS)).read_text())
    texts = [*TEXTS, *sorted({" ".join(str(row[key]).split()) for row in rows for key in ("question", "answer")})]
    texts = [text for text in texts if "\ufffd" not in text]  # a broken letter in the file, which Java leaves out
    (tmp_path / "texts").write_text("\n".join(texts))
    jar = Path(theirs.__file__).with_name(theirs.STANFORD_CORENLP_3_4_1_JAR)
    command = (java, "-cp", jar, "edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase")
    lines = subprocess.run((*command, tmp_path / "texts"), capture_output=True, encoding="utf-8", check=True).stdout
    for text, line in zip(texts, lines.splitlines(), strict=True):
        assert caption_words(text) == [word for word in line.split() if word not in theirs.PUNCTUATIONS], text


def test_meteor_is_that_of_its_program():
    if isinstance(missing := meteor.program(), str):
        pytest.skip(missing)
    found = meteor.meteor([said.split() for said, _, _ in PAIRS], [true.split() for _, true, _ in PAIRS])
    for row, (_, _, expected) in enumerate(PAIRS):
        assert found(np.eye(len(PAIRS))[row]) == pytest.approx(expected, abs=1e-9)
    assert found(np.ones(len(PAIRS))) == pytest.approx(ALL_PAIRS, abs=1e-9)


def test_meteor_by_hand():
    """3 of 4 words match (one of them a function word on both sides), in two pieces."""
    counts = np.zeros(23)
    counts[:4] = 4, 5, 1, 2  # words, and function words among them
    counts[4:8] = 2, 2, 1, 1  # exact matches: content words of both sides, function words of both
    counts[20:] = 2, 3, 3
    precision, recall = (0.75 * 2 + 0.25) / (0.75 * 3 + 0.25), (0.75 * 2 + 0.25) / (0.75 * 3 + 0.25 * 2)
    mean = 1 / (0.15 / precision + 0.85 / recall)
    assert meteor.score(counts) == pytest.approx(mean * (1 - 0.6 * (2 / 3) ** 0.2))
    assert meteor.score(np.zeros(23)) == 0


def test_without_java_meteor_is_left_out_and_said(monkeypatch):
    monkeypatch.setenv("PATH", "")
    found = CAPTION_V1.together(Said(["a mass", "clear"], ["a mass", "clear lungs"], [None] * 2, [()] * 2))
    assert "meteor" not in found.statistics
    assert found.statistics["cider_d"](np.ones(2)) > 0
    assert "no program `java`" in found.left_out["meteor"] or "pip install" in found.left_out["meteor"]


def test_a_broken_program_is_an_error(monkeypatch):
    monkeypatch.setattr(meteor, "program", lambda: ["sh", "-c", "cat >/dev/null; echo no memory >&2; exit 3"])
    with pytest.raises(RunError, match="ended with code 3 and 0 of 1 lines: no memory"):
        meteor.meteor([["a"]], [["a"]])


def test_captions_are_scored_as_by_pycocoevalcap(monkeypatch):
    """On the same words, each number of its Bleu, Rouge and Cider."""
    cider = pytest.importorskip("pycocoevalcap.cider.cider", reason="pycocoevalcap is not installed")
    bleu, rouge = (pytest.importorskip(f"pycocoevalcap.{name}.{name}") for name in ("bleu", "rouge"))
    monkeypatch.setenv("PATH", "")  # METEOR has its own test
    rng = random.Random(0)
    words = ("The", "lung", "(left)", "is", "clear.", "3.5cm", "x-ray", "no", "effusion,", "patient's")
    said, true = ([" ".join(rng.choices(words, k=rng.randint(1, 12))) for _ in range(40)] for _ in range(2))
    results, references = (
        {n: [" ".join(caption_words(text))] for n, text in enumerate(texts)} for texts in (said, true)
    )
    found = CAPTION_V1.together(Said(said, true, [None] * 40, [()] * 40)).statistics
    ones = np.ones(40)
    assert 10 * found["cider_d"](ones) == pytest.approx(cider.Cider().compute_score(references, results)[0], abs=1e-6)
    theirs = bleu.Bleu(4).compute_score(references, results, verbose=0)[0]
    assert [found[f"bleu{n}"](ones) for n in range(1, 5)] == pytest.approx(theirs, abs=1e-6)
    ours = [CAPTION_V1.score(answer, truth, {})["rouge_l"] for answer, truth in zip(said, true, strict=True)]
    assert np.mean(ours) == pytest.approx(rouge.Rouge().compute_score(references, results)[0], abs=1e-6)


def test_biomedgpt_cleans_captions_in_its_own_way():
    score = BIOMEDGPT_CAPTION_V1.score
    assert score("A 25 cm mass; (left) andor right!", "a 2.5 cm mass left and/or right.", {})["rouge_l"] == 1
    assert score("x ray", "X-ray", {})["rouge_l"] == 0  # a hyphen stays
    found = BIOMEDGPT_CAPTION_V1.together(Said(["a", "b"], ["a.", "c"], [None] * 2, [()] * 2))
    assert found.statistics["cider_d"](np.ones(2)) == pytest.approx(0.125)  # runs of one word alone, one text of two
    alone = BIOMEDGPT_CAPTION_V1.together(Said(["a"], ["a"], [None], [()]))
    assert alone.statistics == {} and "alone" in alone.left_out["cider_d"]


def test_report_v1_is_as_it_was():
    score = REPORT_V1.score("The X-ray, no mass", "x ray: no masses", {})["rouge_l"]
    assert score == pytest.approx(2 * 3 / 9)
    found = REPORT_V1.together(Said(["a b", "c"], ["a b", "d"], [None] * 2, [()] * 2))
    assert set(found.statistics) == {"bleu1", "bleu2", "bleu3", "bleu4", "cider", "cider_d"} and not found.left_out
    assert found.statistics["bleu1"](np.ones(2)) == pytest.approx(2 / 3)
