"""Raw files from stated addresses: resumed, checked, and with an error that says what to do without a
network.
"""

import gzip
import hashlib
import http.client
import json
import shutil
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from biomedgpt_jax.data.errors import DataError
from biomedgpt_jax.data.rows import inside
from biomedgpt_jax.data.spec import Report
from biomedgpt_jax.data.writer import file_sha256, write_json

BLOCK = 1 << 20
TIMEOUT_S = 60
ATTEMPTS = 4
CHECKED = "checked.json"  # beside files of the Hugging Face hub


def fetch_mirrors(urls: Sequence[str], path: Path, report: Report, digest: str | None = None) -> None:
    """As `fetch_url`, from the first of several addresses that has the file. Raises DataError with all reasons."""
    reasons = []
    for url in urls:
        try:
            fetch_url(url, path, report, digest)
            return
        except DataError as reason:
            reasons.append(str(reason))
    raise DataError("\n".join(reasons))


def fetch_url(url: str, path: Path, report: Report, digest: str | None = None) -> None:
    """Downloads `url` to `path`, unless it is there. An interrupted download continues where it stopped.

    The file appears under its name only when it is whole (stated length, and `digest` if given, such as
    "sha256:..." or "md5:..."). Raises DataError.
    """
    if path.exists():
        return
    part = path.with_name(path.name + ".part")
    for attempt in range(ATTEMPTS):
        try:
            _continue(url, part, report)
            break
        except urllib.error.HTTPError as reason:
            if reason.code < 500:
                raise DataError(
                    f"{url}: the server answers {reason.code} {reason.reason}; {_instead(path)}"
                ) from reason
            last: Exception = reason
        except (OSError, http.client.HTTPException) as reason:
            last = reason
        if attempt + 1 == ATTEMPTS:
            cause = getattr(last, "reason", None) or last
            raise DataError(f"{url}: download failed ({cause}). Call again to continue it; {_instead(path)}") from last
        time.sleep(2.0**attempt / 4)
    if digest is not None:
        kind, _, expected = digest.partition(":")
        with part.open("rb") as file:
            found = hashlib.file_digest(file, kind).hexdigest()
        if found != expected:
            _forget(part)
            raise DataError(f"{url}: {kind} {found}, expected {expected}; the damaged file was removed, call again")
    part.rename(path)
    _forget(part)


def fetch_hub(repo: str, patterns: Collection[str], folder: Path) -> None:
    """Files of a Hugging Face data set repository that match the patterns, into `folder`, held against the checksums
    that the hub publishes for large ones. Raises DataError.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled
    from huggingface_hub.hf_api import RepoFile

    try:
        snapshot_download(repo, repo_type="dataset", allow_patterns=list(patterns), local_dir=folder)
        came = {path.relative_to(folder).as_posix() for pattern in patterns for path in folder.glob(pattern)}
        if unchecked := came - set(_checked(folder)):
            listed = HfApi().list_repo_tree(repo, repo_type="dataset", recursive=True)
            stated = {each.path: each.lfs.sha256 for each in listed if isinstance(each, RepoFile) and each.lfs}
            _check(repo, folder, {name: stated.get(name) for name in sorted(unchecked)})
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as reason:
        first = str(reason).strip().splitlines()[0] if str(reason).strip() else type(reason).__name__
        raise DataError(
            f"Hugging Face data set {repo}: download failed ({first.rstrip('.')}). Call again to continue; without a "
            f"network, bring {', '.join(patterns)} from elsewhere and give their folder as the source; a gated "
            "repository also needs `hf auth login`"
        ) from reason
    missing = [pattern for pattern in patterns if not any(folder.glob(pattern))]
    if missing:
        raise DataError(f"Hugging Face data set {repo}: no file like {missing} came; the repository has changed")


def _checked(folder: Path) -> dict[str, str | None]:
    """Files that were held against their checksums, with these."""
    try:
        return json.loads((folder / CHECKED).read_text())
    except (FileNotFoundError, ValueError):
        return {}


def _check(repo: str, folder: Path, stated: Mapping[str, str | None]) -> None:
    """`stated`: None for a small file, of which no checksum is published."""
    for name, expected in stated.items():
        if expected is not None and (found := file_sha256(folder / name)) != expected:
            (folder / name).unlink()
            raise DataError(
                f"Hugging Face data set {repo}: {name} has sha256 {found}, the hub states {expected}; the damaged file "
                "was removed, call again"
            )
    write_json(folder / CHECKED, {**_checked(folder), **stated})


def unzip(archive: Path, folder: Path) -> None:
    """Unpacks into `folder`, which appears only when whole; members that would leave it are refused."""
    if folder.exists():
        return
    working = folder.with_name(folder.name + ".part")
    shutil.rmtree(working, ignore_errors=True)
    try:
        with zipfile.ZipFile(archive) as packed:
            for member in packed.infolist():
                if member.is_dir():
                    continue
                target = inside(working, member.filename)
                target.parent.mkdir(parents=True, exist_ok=True)
                with packed.open(member) as source, target.open("wb") as file:
                    shutil.copyfileobj(source, file, BLOCK)
    except (zipfile.BadZipFile, EOFError) as reason:
        raise DataError(f"{archive}: not a whole zip archive ({reason}); remove it and call again") from reason
    working.rename(folder)


def untar(archive: Path, folder: Path) -> None:
    """As `unzip`, for a tar file; links and devices are left out."""
    if folder.exists():
        return
    working = folder.with_name(folder.name + ".part")
    shutil.rmtree(working, ignore_errors=True)
    working.mkdir(parents=True)
    try:
        with tarfile.open(archive) as packed:
            for member in packed:
                file = packed.extractfile(member) if member.isfile() else None
                if file is None:
                    continue
                target = inside(working, member.name)
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("wb") as out:
                    shutil.copyfileobj(file, out, BLOCK)
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as reason:
        raise DataError(f"{archive}: not a whole tar archive ({reason}); remove it and call again") from reason
    working.rename(folder)


def fetch_pmc_figures(listing: Path, wanted: set[str], folder: Path, report: Report) -> None:
    """Figures out of the article archives of PubMed Central, as `folder/<pair_id>.jpg`.

    `listing`: JSONL of {pair_id, pmc_tar_url, image_file_path}. Archives are read as they arrive and not
    kept. A figure that cannot be had is left out; `folder/missing.json` says why, and `prepare` reports its
    rows.
    """
    folder.mkdir(parents=True, exist_ok=True)
    articles: dict[str, list[dict[str, str]]] = {}
    with listing.open() as lines:
        for line in lines:
            entry = json.loads(line)
            if entry["pair_id"] in wanted and not inside(folder, f"{entry['pair_id']}.jpg").exists():
                articles.setdefault(entry["pmc_tar_url"], []).append(entry)
    missing: dict[str, str] = {}
    for done, (url, entries) in enumerate(articles.items()):
        report("PubMed Central articles", done, len(articles))
        for pair, reason in _figures(url, entries, folder).items():
            missing[pair] = f"{url}: {reason}"
    report("PubMed Central articles", len(articles), len(articles))
    (folder / "missing.json").write_text(json.dumps(missing, indent=1) + "\n")


def _figures(url: str, entries: list[dict[str, str]], folder: Path) -> dict[str, str]:
    """Fetches one article; returns why figures are missing, by pair_id."""
    left = {entry["image_file_path"].lstrip("./"): entry["pair_id"] for entry in entries}
    reason = "not in the archive"
    try:
        # The listing names the old ftp addresses; the same host serves them by https.
        address = url.replace("ftp://", "https://")
        with _open(address, {}) as answer, tarfile.open(fileobj=answer, mode="r|gz") as archive:
            for member in archive:
                pair = left.get(member.name.lstrip("./"))
                file = archive.extractfile(member) if pair else None
                if pair and file:
                    part = folder / f"{pair}.part"
                    part.write_bytes(file.read())
                    part.rename(folder / f"{pair}.jpg")
                    del left[member.name.lstrip("./")]
    except (OSError, tarfile.TarError, EOFError, http.client.HTTPException) as error:
        reason = str(error) or type(error).__name__
    return dict.fromkeys(left.values(), reason)


def _continue(url: str, part: Path, report: Report) -> None:
    """Asks for what `part` lacks and appends it."""
    tag_file = part.with_name(part.name + ".tag")
    have = part.stat().st_size if part.exists() and tag_file.exists() else 0
    headers = {"Range": f"bytes={have}-", "If-Range": tag_file.read_text()} if have else {}
    with _open(url, headers) as answer:
        if answer.status != 206:
            have = 0
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length else None
        tag = answer.headers.get("ETag") or answer.headers.get("Last-Modified")
        if tag and not tag.startswith("W/"):
            tag_file.write_text(tag)
        else:
            tag_file.unlink(missing_ok=True)
        with part.open("ab" if have else "wb") as file:
            while block := answer.read(BLOCK):
                file.write(block)
                have += len(block)
                report(part.name.removesuffix(".part"), have, total)
    if total is not None and have != total:
        raise OSError(f"the connection ended after {have} of {total} bytes")


def _open(url: str, headers: dict[str, str]) -> http.client.HTTPResponse:
    if urlsplit(url).scheme not in ("http", "https"):
        raise DataError(f"{url}: expected an http or https address")
    request = urllib.request.Request(url, headers={"User-Agent": "biomedgpt-jax", **headers})
    return urllib.request.urlopen(request, timeout=TIMEOUT_S)


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    part.with_name(part.name + ".tag").unlink(missing_ok=True)


def _instead(path: Path) -> str:
    what = f"{path.name!r}, unpacked," if path.suffix == ".zip" else repr(path.name)
    return f"without a network, bring {what} from elsewhere and give its folder as the source"
