"""METEOR (Denkowski and Lavie 2014), by the Java program that pycocoevalcap carries.

The program aligns an answer with its reference through exact words, stems, WordNet's synonyms and a table of
paraphrases of 61 MB, and counts; the score follows from the counts here, so that one call serves the score and every
draw of its bootstrap. It needs the extra `meteor` and a Java runtime; without them there is a reason and no score.
"""

import shutil
import subprocess
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from biomedgpt_jax.core.errors import RunError
from biomedgpt_jax.eval.protocol import Statistic

JAR = "meteor/meteor-1.5.jar"
# Those of METEOR 1.5 for English, tuned to rank systems: of exact words, stems, synonyms and paraphrases, and the rest.
_WEIGHTS = np.array([1.0, 0.6, 0.8, 0.6])
_ALPHA, _BETA, _GAMMA, _DELTA = 0.85, 0.2, 0.6, 0.75
# Columns of the counts: words and function words of both sides, four counts for each kind of match, then the rest.
_LENGTHS, _MATCHES, _CHUNKS, _MATCHED = slice(0, 4), slice(4, 20), 20, slice(21, 23)


def meteor(said: Sequence[Sequence[str]], true: Sequence[Sequence[str]]) -> Statistic | str:
    """METEOR of a corpus of words with one reference each, 0..1, or why it cannot be had.

    Counts of all texts are added up before the score is made, as in the program.

    Raises:
        RunError: the program failed.
    """
    found = program()
    if isinstance(found, str):
        return found
    counts = _counts(found, said, true)
    return lambda weights: score(weights @ counts)


def program() -> list[str] | str:
    """The command that runs it, or what is missing."""
    package = find_spec("pycocoevalcap")
    folders = [] if package is None else package.submodule_search_locations or []
    jar = next((path for folder in folders if (path := Path(folder) / JAR).is_file()), None)
    if jar is None:
        return "METEOR needs the package pycocoevalcap: pip install 'biomedgpt_jax[meteor]'"
    java = shutil.which("java")
    if java is None:
        return "METEOR needs a Java runtime: no program `java` was found"
    return [java, "-Xmx2G", "-jar", str(jar), "-", "-", "-stdio", "-l", "en", "-norm"]


def score(counts: np.ndarray) -> float:
    """The score of counts [23] that were added up."""
    of_said, of_true, functions_said, functions_true = counts[_LENGTHS]
    content_said, content_true, function_said, function_true = counts[_MATCHES].reshape(4, 4).T

    def share(content: np.ndarray, function: np.ndarray, length: float, functions: float) -> float:
        most = _DELTA * (length - functions) + (1 - _DELTA) * functions
        return float(_WEIGHTS @ (_DELTA * content + (1 - _DELTA) * function)) / most if most else 0.0

    precision = share(content_said, function_said, of_said, functions_said)
    recall = share(content_true, function_true, of_true, functions_true)
    if not precision or not recall:
        return 0.0
    mean = 1 / ((1 - _ALPHA) / precision + _ALPHA / recall)
    broken = counts[_CHUNKS] / (counts[_MATCHED].sum() / 2)
    return float(mean * (1 - _GAMMA * broken**_BETA))


def _counts(command: list[str], said: Sequence[Sequence[str]], true: Sequence[Sequence[str]]) -> np.ndarray:
    """float64 [n 23]."""
    lines = [f"SCORE ||| {_plain(truth)} ||| {_plain(answer)}\n" for answer, truth in zip(said, true, strict=True)]
    done = subprocess.run(command, input="".join(lines), capture_output=True, encoding="utf-8", check=False)
    rows = [line.split() for line in done.stdout.splitlines()]
    if done.returncode or len(rows) != len(lines) or any(len(row) != _MATCHED.stop for row in rows):
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise RunError(
            f"METEOR's Java program ended with code {done.returncode} and {len(rows)} of {len(lines)} lines: {last}. "
            "Score under a protocol without METEOR (report/v1), or mend the Java runtime"
        )
    counts = np.array(rows, np.float64)
    whole = (counts[:, _CHUNKS] == 1) & (counts[:, _MATCHED] == counts[:, :2]).all(axis=1)
    counts[whole, _CHUNKS] = 0  # nothing is broken
    return counts


def _plain(words: Sequence[str]) -> str:
    return " ".join(words).replace("|||", "")
