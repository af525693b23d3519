"""A file server on this machine for the download tests, with faults on request; and archives to serve."""

import contextlib
import hashlib
import http.server
import io
import json
import tarfile
import threading
import zipfile

COMMIT = "c" * 40


class Files:
    """`content`: path -> bytes. `cut`: close the connection after so many bytes, once per entry. `stated`: file of a
    hub's repository -> another checksum than its own.
    """

    def __init__(self, content, ranges=True):
        self.content = dict(content)
        self.ranges = ranges
        self.cut = []
        self.stated = {}
        self.asked = []


@contextlib.contextmanager
def serve(files):
    """Yields the address of a running server."""
    handler = type("Handler", (_Handler,), {"files": files})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def zipped(members):
    """A zip archive of {name: bytes}."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as packed:
        for name, data in members.items():
            packed.writestr(name, data)
    return out.getvalue()


def article(**members):
    """A PubMed Central archive with these figures."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(f"PMC1/{name}.jpg")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


class _Handler(http.server.BaseHTTPRequestHandler):
    files: Files

    def do_GET(self):
        self._answer(body=True)

    def do_HEAD(self):
        self._answer(body=False)

    def log_message(self, *args):
        pass

    def _answer(self, body):
        path = self.path.split("?")[0]
        self.files.asked.append((self.command, path, self.headers.get("Range")))
        if path.startswith("/api/"):
            return self._send(200, self._hub_api(path), body)
        data = self.files.content.get(path.replace(f"/resolve/{COMMIT}", ""))
        if data is None:
            return self._send(404, b"", body)
        tag = f'"{hashlib.sha256(data).hexdigest()}"'
        start = 0
        if self.files.ranges and self.headers.get("Range") and self.headers.get("If-Range") in (None, tag):
            start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        headers = {"ETag": tag, "X-Repo-Commit": COMMIT}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        self._send(206 if start else 200, data[start:], body, headers)

    def _hub_api(self, path):
        """What the Hugging Face hub says of a repository: its commit, or its files."""
        repo = "/datasets/" + "/".join(path.split("/")[3:5]) + "/"
        names = [name.removeprefix(repo) for name in self.files.content if name.startswith(repo)]
        if "/tree/" in path:
            listing = [
                {"type": "file", "path": name, "oid": "0" * 40, **self._stated(name, self.files.content[repo + name])}
                for name in names
            ]
        else:
            listing = {"id": repo, "sha": COMMIT, "siblings": [{"rfilename": name} for name in names]}
        return json.dumps(listing).encode()

    def _stated(self, name, data):
        """Large files have their checksum published."""
        digest = self.files.stated.get(name, hashlib.sha256(data).hexdigest())
        large = {"oid": digest, "size": len(data), "pointerSize": 130}
        return {"size": len(data), **({"lfs": large} if name.endswith((".zip", ".parquet")) else {})}

    def _send(self, status, data, body, headers=()):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **dict(headers)}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            limit = self.files.cut.pop(0) if self.files.cut else len(data)
            self.wfile.write(data[:limit])
            self.close_connection = True
