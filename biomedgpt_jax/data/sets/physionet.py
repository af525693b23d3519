"""What the credentialed sets of PhysioNet have in common: how a person gets them, and the sections of a note."""

import re
from collections.abc import Iterable, Sequence

from biomedgpt_jax.data.rows import spaces

LICENCE = "PhysioNet Credentialed Health Data License 1.5.0"


def steps(project: str, version: str, files: Iterable[str]) -> tuple[str, ...]:
    """From an account to the files of one project."""
    address = f"https://physionet.org/files/{project}/{version}/"
    return (
        "Make an account at https://physionet.org and ask for credentialed access (with a reference; some days).",
        "Pass the CITI course 'Data or Specimens Only Research' and hand in its report at PhysioNet.",
        f"Sign the data use agreement at https://physionet.org/content/{project}/{version}/",
        *(f"wget -N -c -x -nH --user=YOU --ask-password {address}{file}" for file in files),
        "Keep the files, and what is made of them, where only people under the same agreement can read; they may not "
        "be sent to a third party, models behind an interface included.",
    )


def sections(text: str, headings: Sequence[str], ends: str) -> dict[str, str]:
    """The text under each of `headings` ("Findings:", in any case), up to the next heading or a line that `ends`
    (a regular expression) matches.
    """
    names = "|".join(re.escape(name) for name in headings)
    mark = re.compile(rf"^[ \t]*(?:(?P<name>{names})[ \t]*:|(?:{ends}))", re.IGNORECASE | re.MULTILINE)
    found: dict[str, str] = {}
    marks = list(mark.finditer(text))
    for here, after in zip(marks, [*marks[1:], None], strict=True):
        name = here.group("name")
        if name is None or name.lower() in found:
            continue
        body = spaces(text[here.end() : after.start() if after else len(text)])
        if body:
            found[name.lower()] = body
    return found
