"""Hostile images and rows: refused one by one, within the memory and time of an ordinary run, the rest kept."""

import io
import json
import os
import re
import struct
import subprocess
import sys
import zlib

import pytest
from PIL import Image

from tests.command import ROOT, config, contents, prepare_own, talk, write_raw

MEMORY_KB = 1_500_000  # of the whole process, most of it the libraries
SECONDS = 60


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, *extra):
    """A tiny file that says that it is width x height, with further chunks behind its header."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + pixels + chunk(b"IEND", b"")


def dicom(deflated=False, **tags):
    pydicom = pytest.importorskip("pydicom")
    from pydicom.dataset import Dataset, FileMetaDataset

    meta, uid = FileMetaDataset(), pydicom.uid
    meta.TransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian if deflated else uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = uid.SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = uid.UID("1.2.3")
    dataset = Dataset()
    dataset.file_meta = meta
    plain = {"Rows": 4, "Columns": 4, "BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "PixelRepresentation": 0}
    grey = {"SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2", "PixelData": bytes(16)}
    for name, value in {**plain, **grey, **tags}.items():
        setattr(dataset, name, value)
    out = io.BytesIO()
    dataset.save_as(out, enforce_file_format=True)
    return out.getvalue()


def deflate_bomb():
    """A deflated DICOM file of about a megabyte that inflates to more than a gigabyte of zeros."""
    whole = dicom(deflated=True)
    body = 144 + int.from_bytes(whole[140:144], "little")
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    piece = packer.compress(bytes(16 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return whole[:body] + 65 * piece + packer.flush()


def picture(kind, **options):
    out = io.BytesIO()
    Image.effect_noise((32, 32), 90).convert("RGB").save(out, kind, **options)
    return out.getvalue()


def many_exif():
    exif = Image.Exif()
    exif[0x010E] = "x" * 60_000
    return exif


REFUSED = {
    "bomb.png": (lambda: png(50_000, 50_000), "refused as a decompression bomb"),
    "large.png": (lambda: png(12_000, 12_000), "144000000 pixels, more than the limit of 89478485"),
    "short.png": (lambda: png(9_000, 9_000), "not a readable image"),
    "text_bomb.png": (lambda: png(9, 9, chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(20 << 20)))), "too large for"),
    "rows.dcm": (lambda: dicom(Rows=65535, Columns=65535), "65535 x 65535 of 1 samples is 4294836225 pixels"),
    "frames.dcm": (lambda: dicom(NumberOfFrames=2_000_000_000), "16 vs 32000000000 bytes"),
    "minus.dcm": (lambda: dicom(NumberOfFrames=-1), "NumberOfFrames is -1"),
    "deflated.dcm": (deflate_bomb, "inflated: 107"),
    "text.jpg": (lambda: b"hello\n", "text.jpg: not a readable image (6 bytes): no known format, nor DICOM"),
    "empty.jpg": (lambda: b"", "no known format"),
    "cut.jpg": (lambda: picture("JPEG")[:700], "truncated"),
    "endless.png": (lambda: "/dev/zero", "a link to /dev/zero, outside of"),
    "stranger.png": (lambda: "/etc/hostname", "a link to /etc/hostname, outside of"),
    "circle.png": (lambda: "circle.png", "cannot be read"),
}
ACCEPTED = {
    "profile.jpg": lambda: picture("JPEG", icc_profile=bytes(3_000_000)),
    "notes.jpg": lambda: picture("JPEG", exif=many_exif()),
    "moving.gif": lambda: picture(
        "GIF", save_all=True, append_images=[Image.new("RGB", (32, 32), (n, 0, 0)) for n in range(200)]
    ),
    "pages.tiff": lambda: picture("TIFF", save_all=True, append_images=[Image.new("RGB", (32, 32))] * 20),
    "deflated_well.dcm": lambda: dicom(deflated=True),
}


def write_rows(raw, rows):
    (raw / "train.json").write_text(json.dumps(rows))


def skipped(out):
    return {row["row"]: row["reason"] for row in json.loads((out / "manifest.json").read_text())["skipped"]}


def run_bounded(*arguments):
    """Another process: (exit code, what it wrote to stderr, largest resident memory in KB)."""
    # ru_maxrss would begin with the memory of this process, whose fork the other one is.
    program = (
        "import sys; from biomedgpt_jax.__main__ import main; code = main(); "
        "sys.stderr.write(open('/proc/self/status').read()); sys.exit(code)"
    )
    command = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    peak = re.search(r"VmHWM:\s+(\d+) kB", done.stderr)
    assert peak is not None, done.stderr
    return done.returncode, done.stderr, int(peak[1])


@pytest.mark.timeout(SECONDS)
def test_hostile_images_are_refused_one_by_one_in_bounded_memory(tmp_path):
    raw, out = write_raw(tmp_path / "raw"), tmp_path / "out"
    for name, (make, _) in REFUSED.items():
        content = make()
        file = raw / "images" / name
        file.symlink_to(content) if isinstance(content, str) else file.write_bytes(content)
    for name, make in ACCEPTED.items():
        (raw / "images" / name).write_bytes(make())
    os.mkfifo(raw / "images" / "pipe.png")
    (raw / "images" / "folder.png").mkdir()
    with (raw / "images" / "sparse.png").open("wb") as file:
        file.truncate(2 << 30)
    reasons = {name: reason for name, (_, reason) in REFUSED.items()}
    reasons |= {
        "pipe.png": "not a plain file",
        "folder.png": "not a plain file",
        "sparse.png": "2147483648 bytes, more",
    }
    names = [*reasons, *ACCEPTED]
    write_rows(raw, [{"id": name, "image": name, "conversations": talk("What?", "so")} for name in names])

    code, said, memory = run_bounded(
        "prepare",
        config("data/own.py:name=tiny,train=train.json"),
        f"--config.source={raw}",
        "--config.own.images=images",
        "--config.workers=1",
        "--config.max_bad_share=0.9",
        f"--out={out}",
    )
    assert code == 0, said
    assert "Traceback" not in said
    assert memory < MEMORY_KB
    found = skipped(out)
    assert sorted(found) == list(range(1, len(reasons) + 1))
    for (name, reason), message in zip(reasons.items(), found.values(), strict=True):
        assert name in message and reason in message
        assert "object at 0x" not in message
    split = json.loads((out / "manifest.json").read_text())["splits"]["train"]
    assert split["samples"] == len(ACCEPTED)


HOSTILE_ROWS = {
    "value contains a NUL byte": {"conversations": talk("a\0b", "so")},
    "value is not valid Unicode": {"conversations": talk("a\ud800b", "so")},
    "id contains a NUL byte": {"id": "a\0"},
    "id is not valid Unicode": {"id": "\ud800"},
    "field 'note' is not valid Unicode": {"note": "\udcff"},
    "is not valid Unicode (surr": {"\ud800": "note"},
    "image path contains a NUL byte": {"image": "0.png\0.jpg"},
    "image path is not valid Unicode": {"image": "\ud800.png"},
    "a name of more than 255 bytes": {"image": "x" * 5000},
    "image path '/etc/passwd': expected a relative path": {"image": "/etc/passwd"},
    "image path '../../x.png': expected a relative path": {"image": "../../x.png"},
    "expected a string, found int": {"image": [3]},
    "expected an object, found list": [],
}


def test_hostile_rows_are_named_and_quoted_shortly(tmp_path):
    raw, out = write_raw(tmp_path / "raw"), tmp_path / "out"
    (good, *_) = json.loads((raw / "train.json").read_text())
    write_rows(raw, [good, *({**good, **row} if row else row for row in HOSTILE_ROWS.values())])
    refused = prepare_own(raw, out)
    assert refused.code == 1 and "train.json row 2: value contains a NUL byte" in refused.err
    assert prepare_own(raw, out, "--config.max_bad_share=0.95").code == 0
    found = skipped(out)
    assert list(found) == list(range(2, len(HOSTILE_ROWS) + 2))
    for reason, message in zip(HOSTILE_ROWS, found.values(), strict=True):
        assert reason in message and len(message) < 300


def test_huge_and_deeply_nested_json(tmp_path):
    raw = write_raw(tmp_path / "raw")
    rows = [json.dumps(row) for row in json.loads((raw / "train.json").read_text())]
    huge = '{"id": "' + "x" * (70 << 20) + '"}'
    (raw / "rows.jsonl").write_text("\n".join([rows[0], huge, "[" * 100_000, '{"a":' * 100_000, *rows[1:]]))
    out = tmp_path / "out"
    assert prepare_own(raw, out, "--config.max_bad_share=0.5", files="train=rows.jsonl").code == 0
    assert skipped(out) == {
        2: "a line of more than 67108864 bytes",
        3: "not valid JSON: nested too deeply",
        4: "not valid JSON: nested too deeply",
    }
    before = contents(out)
    (raw / "train.json").write_text("[" * 100_000)
    called = prepare_own(raw, tmp_path / "other")
    assert called.code == 1 and f"{raw / 'train.json'}: not valid JSON: nested too deeply" in called.err
    (raw / "train.json").write_bytes(b"\xff\xfe[\x00]\x00")
    called = prepare_own(raw, tmp_path / "other")
    assert called.code == 1 and "train.json: not valid JSON: 'utf-8' codec" in called.err
    (raw / "train.json").unlink()
    (raw / "train.json").mkdir()
    called = prepare_own(raw, tmp_path / "other")
    assert called.code == 1 and f"{raw / 'train.json'}: a folder, expected a file of rows" in called.err
    assert contents(out) == before


def test_links_of_the_download_cache_of_hugging_face_are_followed(tmp_path):
    raw = write_raw(tmp_path / "hub" / "snapshots" / "0a1b")
    blobs = tmp_path / "hub" / "blobs"
    blobs.mkdir()
    for file in (raw / "images").iterdir():
        file.rename(blobs / file.name)
        file.symlink_to(f"../../../blobs/{file.name}")
    assert prepare_own(raw, tmp_path / "out").code == 0
