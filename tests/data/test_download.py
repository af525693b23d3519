"""Downloads from a real server on this machine: whole, interrupted, changed, damaged, refused, and without
a network.
"""

import hashlib
import io
import json
import socket
import tarfile
import zipfile

import numpy as np
import pytest

from biomedgpt_jax.data.download import fetch_mirrors, fetch_pmc_figures, fetch_url, untar, unzip
from biomedgpt_jax.data.errors import DataError
from tests.data.server import Files, article, serve

DATA = np.random.default_rng(0).bytes(300_000)
SHA256 = f"sha256:{hashlib.sha256(DATA).hexdigest()}"


@pytest.fixture
def files():
    return Files({"/set.zip": DATA})


def quiet(what, done, total):
    pass


def test_whole_file_once(files, tmp_path):
    seen = []
    with serve(files) as address:
        for _ in range(2):
            fetch_url(f"{address}/set.zip", tmp_path / "set.zip", lambda *event: seen.append(event), SHA256)
    assert (tmp_path / "set.zip").read_bytes() == DATA
    assert [path for _, path, _ in files.asked] == ["/set.zip"]
    assert seen[-1] == ("set.zip", 300_000, 300_000)
    assert [path.name for path in tmp_path.iterdir()] == ["set.zip"]


def test_interrupted_download_asks_only_for_the_rest(files, tmp_path):
    files.cut = [100_000, 50_000]
    with serve(files) as address:
        fetch_url(f"{address}/set.zip", tmp_path / "set.zip", quiet, SHA256)
    assert (tmp_path / "set.zip").read_bytes() == DATA
    assert [byte_range for *_, byte_range in files.asked] == [None, "bytes=100000-", "bytes=150000-"]


def test_a_later_call_continues(files, tmp_path):
    files.cut = [10_000] * 4
    with serve(files) as address:
        with pytest.raises(DataError, match=r"ended after 40000 of 300000 bytes.*Call again to continue"):
            fetch_url(f"{address}/set.zip", tmp_path / "set.zip", quiet, SHA256)
        assert not (tmp_path / "set.zip").exists()
        fetch_url(f"{address}/set.zip", tmp_path / "set.zip", quiet, SHA256)
    assert (tmp_path / "set.zip").read_bytes() == DATA
    assert files.asked[-1][2] == "bytes=40000-"


def test_a_file_that_changed_meanwhile_is_not_mixed(files, tmp_path):
    files.cut = [10_000] * 4
    other = DATA[::-1]
    with serve(files) as address:
        with pytest.raises(DataError):
            fetch_url(f"{address}/set.zip", tmp_path / "set.zip", quiet)
        files.content["/set.zip"] = other
        fetch_url(f"{address}/set.zip", tmp_path / "set.zip", quiet)
    assert (tmp_path / "set.zip").read_bytes() == other


def test_server_without_ranges(tmp_path):
    files = Files({"/set.zip": DATA}, ranges=False)
    files.cut = [100_000]
    with serve(files) as address:
        fetch_url(f"{address}/set.zip", tmp_path / "set.zip", quiet, SHA256)
    assert (tmp_path / "set.zip").read_bytes() == DATA


def test_damaged_file_is_removed_and_named(files, tmp_path):
    files.content["/set.zip"] = DATA[:-1] + b"?"
    with serve(files) as address:
        with pytest.raises(DataError, match=f"sha256 .* expected {SHA256[7:]}"):
            fetch_url(f"{address}/set.zip", tmp_path / "set.zip", quiet, SHA256)
        assert list(tmp_path.iterdir()) == []
        files.content["/set.zip"] = DATA
        fetch_url(f"{address}/set.zip", tmp_path / "set.zip", quiet, SHA256)


def test_refused_and_offline(files, tmp_path):
    with (
        serve(files) as address,
        pytest.raises(DataError, match=r"answers 404 Not Found; without a network, bring 'a'"),
    ):
        fetch_url(f"{address}/gone", tmp_path / "a", quiet)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        with pytest.raises(
            DataError, match=r"refused.*without a network, bring 'a' from elsewhere and give its folder"
        ):
            fetch_url(f"http://127.0.0.1:{port}/a", tmp_path / "a", quiet)
    with pytest.raises(DataError, match="expected an http or https address"):
        fetch_url("file:///etc/hostname", tmp_path / "a", quiet)


def test_unzip_is_whole_or_absent(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        packed.writestr("x/y.txt", "hello")
    unzip(tmp_path / "a.zip", tmp_path / "a")
    assert (tmp_path / "a/x/y.txt").read_text() == "hello"
    with zipfile.ZipFile(tmp_path / "evil.zip", "w") as packed:
        packed.writestr("ok.txt", "fine")
        packed.writestr("../evil.txt", "out")
    with pytest.raises(DataError, match="inside the image folder"):
        unzip(tmp_path / "evil.zip", tmp_path / "evil")
    assert not (tmp_path / "evil").exists()
    assert not (tmp_path / "evil.txt").exists()
    (tmp_path / "cut.zip").write_bytes((tmp_path / "a.zip").read_bytes()[:-30])
    with pytest.raises(DataError, match="not a whole zip archive"):
        unzip(tmp_path / "cut.zip", tmp_path / "cut")


def test_figures_of_pubmed_central(tmp_path):
    files = Files({"/1.tar.gz": article(a=b"AAA", b=b"BBB", c=b"CCC"), "/2.tar.gz": article(d=b"DDD")[:40]})
    with serve(files) as address:
        listing = tmp_path / "urls.jsonl"
        entries = [("p1", 1, "a"), ("p2", 1, "b"), ("p3", 1, "zz"), ("p4", 2, "d"), ("p5", 3, "e"), ("p6", 1, "c")]
        lines = [
            json.dumps({"pair_id": pair, "pmc_tar_url": f"{address}/{n}.tar.gz", "image_file_path": f"PMC1/{name}.jpg"})
            for pair, n, name in entries
        ]
        listing.write_text("\n".join(lines) + "\n")
        fetch_pmc_figures(listing, {"p1", "p2", "p3", "p4", "p5"}, tmp_path / "images", quiet)
        got = {path.name: path.read_bytes() for path in (tmp_path / "images").glob("*.jpg")}
        assert got == {"p1.jpg": b"AAA", "p2.jpg": b"BBB"}
        missing = json.loads((tmp_path / "images/missing.json").read_text())
        assert sorted(missing) == ["p3", "p4", "p5"]
        assert missing["p3"].endswith("not in the archive")
        assert "404" in missing["p5"]
        files.asked.clear()
        fetch_pmc_figures(listing, {"p1", "p2"}, tmp_path / "images", quiet)  # all there: nothing is asked
        assert files.asked == []


def test_untar_is_whole_or_absent(tmp_path):
    archive = tmp_path / "set.tgz"
    archive.write_bytes(article(fig=b"a" * 100_000))
    untar(archive, tmp_path / "set")
    assert (tmp_path / "set" / "PMC1" / "fig.jpg").read_bytes() == b"a" * 100_000
    archive.write_bytes(archive.read_bytes()[:150])
    with pytest.raises(DataError, match="not a whole tar archive"):
        untar(archive, tmp_path / "cut")
    assert not (tmp_path / "cut").exists()
    with tarfile.open(archive, "w:gz") as packed:
        packed.addfile(tarfile.TarInfo("../outside"), io.BytesIO())
    with pytest.raises(DataError, match="expected a relative path"):
        untar(archive, tmp_path / "other")


def test_all_mirrors_are_named_when_none_has_the_file(tmp_path):
    with (
        serve(Files({})) as address,
        pytest.raises(DataError, match=r"(?s)/one/a\.zip: .*404.*/two/a\.zip: .*404.*bring 'a\.zip', unpacked"),
    ):
        fetch_mirrors([f"{address}/one/a.zip", f"{address}/two/a.zip"], tmp_path / "a.zip", quiet)
