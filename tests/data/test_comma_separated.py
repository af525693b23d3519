"""Comma-separated files: quoting, gzip, and what is wrong with a row or a file."""

import gzip

import pytest

from biomedgpt_jax.data.comma_separated import csv_rows, plain_or_gzip
from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.rows import BadRow, check_text

TEXT = '\ufeffID, TEXT\n1,"two\nlines, one ""cell"""\n2\n3,last\n'


@pytest.mark.parametrize("packed", [False, True])
def test_rows_over_several_lines_and_a_short_one(tmp_path, packed):
    path = tmp_path / ("a.csv.gz" if packed else "a.csv")
    path.write_bytes(gzip.compress(TEXT.encode()) if packed else TEXT.encode())
    assert plain_or_gzip(tmp_path, "a.csv") == path
    first, short, last = csv_rows(path, ("ID", "TEXT"))
    assert first == (1, {"ID": "1", "TEXT": 'two\nlines, one "cell"'})
    assert short == (2, BadRow(path.name, 2, "expected 2 comma-separated columns, found 1"))
    assert last == (3, {"ID": "3", "TEXT": "last"})


def test_bytes_that_are_not_utf8_are_seen_by_the_check_of_a_row(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"ID,TEXT\n1,caf\xe9\n2,good\n")
    (_, latin), (_, good) = csv_rows(tmp_path / "a.csv", ("TEXT",))
    with pytest.raises(DataError, match="not valid Unicode"):
        check_text(latin["TEXT"], "TEXT")
    assert good["TEXT"] == "good"


def test_a_huge_cell_is_one_bad_row(tmp_path):
    (tmp_path / "a.csv").write_text(f"ID,TEXT\n1,{'x' * 200_000}\n2,good\n")
    rows = list(csv_rows(tmp_path / "a.csv", ("TEXT",)))
    assert isinstance(rows[0][1], BadRow)
    assert rows[-1][1]["TEXT"] == "good"


def test_other_files_are_refused(tmp_path):
    (tmp_path / "a.csv").write_text("ID,NOTE\n1,x\n")
    with pytest.raises(DataError, match=r"no column \['TEXT'\]; found \['ID', 'NOTE'\]"):
        list(csv_rows(tmp_path / "a.csv", ("TEXT",)))
    with pytest.raises(DataError, match=r"no file b\.csv or b\.csv\.gz there or below; the folder holds: a\.csv"):
        plain_or_gzip(tmp_path, "b.csv")
    whole = gzip.compress(TEXT.encode() * 1000)
    (tmp_path / "b.csv.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"b\.csv\.gz: damaged in row"):
        list(csv_rows(tmp_path / "b.csv.gz", ("TEXT",)))
