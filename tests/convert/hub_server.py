"""The few answers of the Hugging Face hub that an upload needs, by a server on this machine."""

import base64
import contextlib
import hashlib
import http.server
import json
import threading


class Hub:
    """`token` may write to `owner`; `repos` maps owner/name to its files."""

    def __init__(self, owner: str, token: str):
        self.owner, self.token = owner, token
        self.repos: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.large: dict[str, bytes] = {}  # by sha256


@contextlib.contextmanager
def serve_hub(hub: Hub):
    """Yields the address of a running server."""
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_GET(self):
        self._body()
        if "/".join(self.path.split("?")[0].split("/")[3:5]) in self.hub.repos:
            return self._send(200, {"id": "repo", "sha": "0" * 40, "siblings": [], "private": False})
        return self._send(404, {})

    def do_PUT(self):
        data = self._body()
        self.hub.large[hashlib.sha256(data).hexdigest()] = data
        return self._send(200, {})

    def do_POST(self):
        body = self._body()
        if self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            return self._send(401, {"error": "Invalid credentials"})
        path = self.path.split("?")[0]
        if path == "/api/validate-yaml":
            return self._send(200, {"errors": [], "warnings": []})
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        name = "/".join(path.removeprefix("/api/models/").removeprefix("/").split("/")[:2]).removesuffix(".git")
        if path.endswith("/info/lfs/objects/batch"):
            return self._send(200, self._batch(json.loads(body)))
        if "/preupload/" in path:
            files = json.loads(body)["files"]
            modes = ["lfs" if each["path"].endswith(".safetensors") else "regular" for each in files]
            told = [
                {"path": each["path"], "uploadMode": mode, "shouldIgnore": False, "oid": None}
                for each, mode in zip(files, modes, strict=True)
            ]
            return self._send(200, {"files": told})
        if "/commit/" in path:
            return self._commit(name, [json.loads(line) for line in body.splitlines()])
        return self._send(404, {})

    def _create(self, asked):
        owner, name = asked.get("organization", "me"), asked["name"]
        if owner != self.hub.owner:
            return self._send(403, {"error": f"You don't have the rights to create a model under {owner}"})
        self.hub.repos.setdefault(f"{owner}/{name}", {})
        self.hub.private[f"{owner}/{name}"] = asked.get("private") or asked.get("visibility") == "private"
        return self._send(200, {"url": f"http://{self.headers['Host']}/{owner}/{name}", "id": f"{owner}/{name}"})

    def _batch(self, asked):
        objects = [
            {
                **each,
                "actions": {"upload": {"href": f"http://{self.headers['Host']}/large/{each['oid']}", "header": {}}},
            }
            for each in asked["objects"]
        ]
        return {"transfer": "basic", "objects": objects}

    def _commit(self, name, lines):
        files = self.hub.repos[name]
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            if line["key"] == "lfsFile":
                files[value["path"]] = self.hub.large[value["oid"]]
        url = f"http://{self.headers['Host']}/{name}/commit/{'1' * 40}"
        return self._send(200, {"commitUrl": url, "commitOid": "1" * 40, "success": True, "hookOutput": ""})

    def _body(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _send(self, status, content):
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
