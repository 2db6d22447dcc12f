"""A Hub on loopback: repositories in memory, over HTTP, as far as huggingface_hub asks for them.

``with HubServer() as hub`` serves; a client is a fresh process with ``hub.environment(home)``, since huggingface_hub
reads its settings when it is imported. Writes need a token; every request is kept in ``hub.requests``.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit


TOKEN = "hf_" + "s3cret" * 5


def blob_id(content: bytes) -> str:
    """git's id of a file."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


class HubServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, dict[str, bytes]] = {}  # owner/name -> path -> content
        self.commits: dict[str, int] = {}
        self.requests: list[tuple[str, str, str | None]] = []  # method, path, Authorization
        self.refuse: int | None = None  # status of every answer to a write
        self.lock = threading.Lock()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def __enter__(self) -> HubServer:
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.shutdown()
        self.server_close()

    def environment(self, home: Path, token: str | None = TOKEN) -> dict[str, str]:
        """Variables of a client that knows this Hub alone."""
        left_out = {"http_proxy", "https_proxy", "all_proxy", "hf_token", "hf_hub_offline"}
        kept = {key: value for key, value in os.environ.items() if key.lower() not in left_out}
        own = {"HF_ENDPOINT": self.endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1"}
        own |= {"HF_HUB_DISABLE_UPDATE_CHECK": "1", "HF_HUB_OFFLINE": "0", "OMP_NUM_THREADS": "1"}
        return kept | own | ({"HF_TOKEN": token} if token else {})

    def sha(self, repo: str) -> str:
        return hashlib.sha1(f"{repo}{self.commits[repo]}".encode(), usedforsecurity=False).hexdigest()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubServer

    def log_message(self, *args: Any) -> None:
        pass

    def answer(self, status: int, content: Any = b"", headers: dict[str, str] | None = None) -> None:
        is_json = not isinstance(content, bytes)
        body = json.dumps(content).encode() if is_json else content
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if is_json:
            self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        found = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            found += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return found

    def do_POST(self) -> None:
        body, path = self.body(), unquote(urlsplit(self.path).path)
        self.server.requests.append(("POST", path, self.headers.get("Authorization")))
        if path == "/api/validate-yaml":
            return self.answer(200, {"errors": [], "warnings": []})
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.answer(401, {"error": "Invalid username or password."})
        if self.server.refuse is not None:
            return self.answer(self.server.refuse, {"error": "Forbidden"})
        if path == "/api/repos/create":
            return self.create(json.loads(body))
        match = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit)/.+", path)
        if match is None or match[1] not in self.server.files:
            return self.missing("RepoNotFound")
        return {"preupload": self.preupload, "commit": self.commit}[match[2]](match[1], body)

    def create(self, asked: dict[str, Any]) -> None:
        repo = f"{asked.get('organization') or 'me'}/{asked['name']}"
        with self.server.lock:
            status = 409 if repo in self.server.files else 200
            self.server.files.setdefault(repo, {})
            self.server.commits.setdefault(repo, 0)
        self.answer(status, {"url": f"{self.server.endpoint}/{repo}", "name": repo})

    def preupload(self, repo: str, body: bytes) -> None:
        stored = self.server.files[repo]
        found = []
        for file in json.loads(body)["files"]:
            oid = blob_id(stored[file["path"]]) if file["path"] in stored else None
            found.append({"path": file["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": oid})
        self.answer(200, {"files": found})

    def commit(self, repo: str, body: bytes) -> None:
        for line in filter(None, body.split(b"\n")):
            entry = json.loads(line)
            if entry["key"] == "file":
                self.server.files[repo][entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            elif entry["key"] == "deletedFile":
                self.server.files[repo].pop(entry["value"]["path"], None)
            elif entry["key"] != "header":
                return self.answer(400, {"error": f"unknown key {entry['key']}"})
        self.server.commits[repo] += 1
        sha = self.server.sha(repo)
        return self.answer(200, {"commitOid": sha, "commitUrl": f"{self.server.endpoint}/{repo}/commit/{sha}"})

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append((self.command, path, self.headers.get("Authorization")))
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+?)(?:/(revision|tree)/([^/]+)(?:/(.*))?)?", path):
            repo, kind, _, folder = match.groups()
            if repo not in self.server.files:
                return self.missing("RepoNotFound")
            return self.tree(repo, folder or "") if kind == "tree" else self.info(repo)
        if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self.resolve(match[1], match[3])
        return self.missing("RepoNotFound")

    do_HEAD = do_GET

    def info(self, repo: str) -> None:
        names = [{"rfilename": name} for name in sorted(self.server.files[repo])]
        facts = {"id": repo, "modelId": repo, "sha": self.server.sha(repo), "siblings": names}
        self.answer(200, facts | {"tags": [], "private": False, "downloads": 0, "likes": 0})

    def tree(self, repo: str, folder: str) -> None:
        files = {name: content for name, content in self.server.files[repo].items() if name.startswith(folder)}
        if not files:
            return self.missing("EntryNotFound", self.server.sha(repo))
        entries = [
            {"type": "file", "path": name, "size": len(content), "oid": blob_id(content)}
            for name, content in sorted(files.items())
        ]
        return self.answer(200, entries)

    def resolve(self, repo: str, name: str) -> None:
        if repo not in self.server.files:
            return self.missing("RepoNotFound")
        content = self.server.files[repo].get(name)
        if content is None:
            return self.missing("EntryNotFound", self.server.sha(repo))
        headers = {"ETag": f'"{blob_id(content)}"', "X-Repo-Commit": self.server.sha(repo)}
        return self.answer(200, content, headers)

    def missing(self, code: str, sha: str | None = None) -> None:
        self.answer(404, {"error": code}, {"X-Error-Code": code} | ({"X-Repo-Commit": sha} if sha else {}))
