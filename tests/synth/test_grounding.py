"""The comparison of terms, and the prompts' own examples under the checks that answers meet."""

import pytest

from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.synth.grounding import new_terms, read_terms
from biomedgpt_jax.synth.prompts import FOLDER, KINDS, read_prompt

SOURCE = "Axial CT of the kidneys: two 3.5 cm masses and hydronephrosis, without free fluid. L4/L5 disc, T2-weighted."


@pytest.mark.parametrize(
    ("said", "new"),
    [
        ("A computed tomography of the renal region shows a mass of 3.5cm.", []),  # other names, a unit, a singular
        ("There are 2 masses at L5; the collecting system is dilated.", []),  # a number word; implied by the finding
        ("An MRI of the left kidney.", ["left", "mri"]),
        ("The mass measures 3.4 cm.", ["3.4"]),
        ("No pneumothorax is seen in the lung.", ["lung", "pneumothorax"]),  # absence is news as well
        ("1. A mass\n2. Another mass\n7. A third", []),  # marks of a list are no numbers
        ("On the other hand, in contrast, at the base.", []),  # words too common to count
        ("肾脏有肿块和积液。", ["积液"]),  # Chinese against English
        ("The L3 disc and a T1-weighted image.", ["l3", "t1", "t1 weighted"]),
        ("Metastases and calcified nodules.", ["calcified", "metastases", "nodules"]),
    ],
)
def test_what_the_source_does_not_say_is_found(said, new):
    assert new_terms(said, SOURCE, read_terms()) == new


def test_a_source_with_the_common_word_covers_the_whole_name():
    assert new_terms("A contrast-enhanced scan of the frontal lobe.", "CT with contrast, frontal.", read_terms()) == []


def test_a_list_of_terms_that_contradicts_itself_is_refused(tmp_path):
    for lines, told in (("lung | breath\nchest | breath", "line 2"), ("cough > lungs", "lungs")):
        path = tmp_path / f"{len(lines)}.txt"
        path.write_text(lines)
        with pytest.raises(DataError, match=told):
            read_terms(path)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.md")), ids=lambda path: path.stem)
def test_prompts_show_nothing_that_is_new(path):
    prompt = read_prompt(path.stem)
    assert prompt.kind in KINDS and len(prompt.examples) == 2
    assert not [new for source, answer in prompt.examples for new in new_terms(answer, source, read_terms())]
    words = {"language": "English", "min_turns": 3, "max_turns": 8, "min_words": 15, "max_words": 250}
    system = prompt.system(words)
    assert "English" in system and not [name for name in words if "{" + name + "}" in system]


def test_a_prompt_without_its_parts_is_refused(tmp_path):
    (tmp_path / "reasoning_v2.md").write_text("# system\nwrite\n# example\nno parts\n")
    with pytest.raises(DataError, match="## source"):
        read_prompt("reasoning_v2", tmp_path)
    with pytest.raises(DataError, match="found reasoning_v2"):
        read_prompt("poem_v1", tmp_path)
