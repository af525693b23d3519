"""Raw layouts to rows; every bad row with its place and reason."""

import json
import zipfile

import pytest

from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.readers import files_in, json_rows, read_llava, zips_in
from biomedgpt_jax.data.rows import BadRow, Row, inside
from biomedgpt_jax.data.tsv import read_tsv


def said(*pairs):
    return [{"from": who, "value": text} for who, text in pairs]


TALK = said(("human", "What is it?"), ("gpt", "A lung."))


def llava(tmp_path, entries, name="rows.json"):
    path = tmp_path / name
    path.write_text(json.dumps(entries))
    return list(read_llava(path, files_in(tmp_path)))


def test_llava_layouts(tmp_path):
    rows = llava(
        tmp_path,
        [
            {"id": 7, "image": "a/b.jpg", "conversations": TALK, "modality": "CT", "answer_type": "CLOSED "},
            {"image": ["a.jpg", "b.jpg"], "conversatons": TALK + said(("human", "Sure?"), ("gpt", "Yes."))},
            {"id": "t", "conversations": said(("gpt", "Hello"), ("human", "Hi"), ("gpt", "Hi you"))},
            {"id": "p", "image": "a.jpg", "conversations": said(("human", "Q\n<image>"), ("gpt", "A"))},
        ],
    )
    one, two, text, placed = rows
    assert (one.id, one.images[0].path, one.turns) == ("7", tmp_path / "a/b.jpg", (("What is it?", "A lung."),))
    assert one.meta == {"modality": "CT", "answer_type": "closed"}
    assert (two.id, [image.name for image in two.images]) == ("rows-2", ["a.jpg", "b.jpg"])
    assert two.turns[1] == ("Sure?", "Yes.")
    assert (text.images, text.turns) == ((), (("Hi", "Hi you"),))
    assert placed.turns[0][0] == "Q\n<image>"


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ({"image": "a.jpg"}, "no key 'conversations'"),
        ({"conversations": "x"}, "expected a list"),
        ({"conversations": []}, "no message from 'human'"),
        ({"conversations": [{"from": "human"}]}, "needs 'from' and 'value'"),
        ({"conversations": TALK + said(("human", "And?"))}, "no answer"),
        ({"conversations": TALK + said(("gpt", "More"), ("human", "x"))}, "message 3 is from 'gpt', expected 'human'"),
        ({"conversations": said(("human", "Q"), ("gpt", "  "))}, "answer of turn 1 is empty"),
        ({"conversations": said(("human", "Q"), ("gpt", 3))}, "expected a string, found int"),
        ({"conversations": said(("human", "Q\0"), ("gpt", "A"))}, "NUL byte"),
        ({"conversations": said(("human", "Q\ud800"), ("gpt", "A"))}, "not valid Unicode"),
        ({"conversations": said(("human", "Q"), ("gpt", "<image>"))}, "contains <image>"),
        ({"conversations": said(("human", "<image>Q"), ("gpt", "A"))}, "1 <image> in the questions, 0 images"),
        ({"image": ["a", "b"], "conversations": said(("human", "<image>Q"), ("gpt", "A"))}, "1 <image>"),
        ({"image": 3, "conversations": TALK}, "expected a string or a list"),
        ({"image": "../secret.jpg", "conversations": TALK}, "inside the image folder"),
        ({"image": "/etc/passwd", "conversations": TALK}, "inside the image folder"),
        ({"image": "a\0.jpg", "conversations": TALK}, "NUL byte"),
        ({"image": "C:/x.jpg", "conversations": TALK}, "inside the image folder"),
        ({"image": "", "conversations": TALK}, "inside the image folder"),
        ("text", "expected an object"),
    ],
)
def test_bad_llava_rows_are_reported_in_their_place(tmp_path, entry, reason):
    before, bad, after = llava(tmp_path, [{"conversations": TALK}, entry, {"conversations": TALK}])
    assert isinstance(before, Row)
    assert isinstance(after, Row)
    assert isinstance(bad, BadRow)
    assert (bad.file, bad.row) == ("rows.json", 2)
    assert reason in bad.reason


def test_jsonl_reports_broken_lines_and_goes_on(tmp_path):
    path = tmp_path / "rows.jsonl"
    good = json.dumps({"conversations": TALK}).encode()
    path.write_bytes(b"\n".join([b"\xef\xbb\xbf" + good, b'{"conversations": [', b"", b"\xff\xfe", b"[1]", good]))
    rows = list(read_llava(path, files_in(tmp_path)))
    assert [(type(row).__name__, row.row) for row in rows] == [
        ("Row", 1), ("BadRow", 2), ("BadRow", 4), ("BadRow", 5), ("Row", 6)
    ]  # fmt: skip
    assert "not valid JSON" in rows[1].reason
    assert "not UTF-8" in rows[2].reason


@pytest.mark.parametrize(
    ("content", "message"),
    [("[1, 2", "not valid JSON"), ('{"a": 1}', "expected a list of rows, found dict"), (None, "does not exist")],
)
def test_a_file_broken_as_a_whole_is_an_error(tmp_path, content, message):
    path = tmp_path / "train.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError, match=message) as error:
        list(json_rows(path))
    assert str(path) in str(error.value)


def test_inside_keeps_plain_names(tmp_path):
    assert inside(tmp_path, "a/..b/c.png") == tmp_path / "a/..b/c.png"
    with pytest.raises(DataError):
        inside(tmp_path, "a/../../c.png")


def test_images_in_zip_archives(tmp_path, make_jpeg):
    for number in (0, 1):
        with zipfile.ZipFile(tmp_path / f"images_{number}.zip", "w") as packed:
            packed.writestr(f"images_{number}/pmc_{number}.jpg", make_jpeg(number))
    find = zips_in(sorted(tmp_path.glob("*.zip")), depth=1)
    assert find("images/pmc_1.jpg").read() == make_jpeg(1)
    with pytest.raises(DataError, match=r"pmc_2\.jpg: not in the image archives"):
        find("images/pmc_2.jpg")
    (tmp_path / "images_2.zip").write_bytes(b"PK cut off")
    with pytest.raises(DataError, match="not a whole zip archive"):
        zips_in(sorted(tmp_path.glob("*.zip")), depth=1)


def test_tsv_with_header(tmp_path):
    path = tmp_path / "t.tsv"
    path.write_text("question\tanswer\timage\torgan\nWhat?\tLung\ta.jpg\tchest\nWhy?\tSo\t\t\nWho?\t\ta.jpg\t\n")
    first, text, empty = read_tsv(path, files_in(tmp_path))
    assert (first.id, first.images[0].name, first.meta) == ("t-2", "a.jpg", {"organ": "chest"})
    assert text.images == ()
    assert (empty.row, empty.reason) == (4, "the answer of turn 1 is empty")
    path.write_text("q\ta\nx\ty\n")
    with pytest.raises(DataError, match="expected a header line with question and answer"):
        list(read_tsv(path, files_in(tmp_path)))
