"""A Hugging Face hub on loopback with one model and one data set, as much of it as a snapshot needs."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self
from urllib.parse import unquote, urlsplit

COMMITS = ("a" * 40, "b" * 40)


class Hub:
    """Serves the files of folders; what it answers can be made to fail."""

    def __init__(self, models: dict[str, Path], datasets: dict[str, Path]) -> None:
        self.repositories = {f"models/{name}": path for name, path in models.items()}
        self.repositories |= {f"datasets/{name}": path for name, path in datasets.items()}
        self.commit = COMMITS[0]
        self.failure: tuple[int, str] | None = None
        """Status and X-Error-Code of every answer."""
        self.tokens: set[str] = set()
        self.downloads: list[str] = []

    def __enter__(self) -> Self:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub.serve(self, body=True)

            def do_HEAD(self) -> None:
                hub.serve(self, body=False)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def serve(self, request: BaseHTTPRequestHandler, *, body: bool) -> None:
        self.tokens.add(request.headers.get("Authorization", ""))
        if self.failure is not None:
            status, code = self.failure
            self._answer(request, status, b"{}", {"X-Error-Code": code} if code else {}, body=body)
            return
        path = unquote(urlsplit(request.path).path).strip("/")
        for name, folder in self.repositories.items():
            plain = name.removeprefix("models/")
            if path.startswith(f"api/{name}/"):
                self._api(request, name, folder, path.removeprefix(f"api/{name}/"), body=body)
                return
            if path.startswith(f"{plain}/resolve/"):
                _, _, file = path.removeprefix(f"{plain}/resolve/").partition("/")
                data = (folder / file).read_bytes()
                if body:
                    self.downloads.append(f"{name}/{file}")
                etag = hashlib.sha256(data).hexdigest()
                headers = {"ETag": f'"{etag}"', "X-Repo-Commit": self.commit}
                self._answer(request, 200, data, headers, body=body)
                return
        self._answer(request, 404, b"{}", {"X-Error-Code": "RepoNotFound"}, body=body)

    def _api(self, request: BaseHTTPRequestHandler, name: str, folder: Path, rest: str, *, body: bool) -> None:
        files = sorted(each for each in folder.rglob("*") if each.is_file())
        listed = [{"rfilename": each.relative_to(folder).as_posix()} for each in files]
        document = {"id": name.partition("/")[2], "sha": self.commit, "siblings": listed, "private": False}
        kind, _, revision = rest.partition("/")
        known = revision.partition("/")[0] in {"main", *COMMITS}
        if kind == "tree":
            tree = [
                {"type": "file", "path": item["rfilename"], "size": each.stat().st_size, "oid": "0" * 40}
                for item, each in zip(listed, files, strict=True)
            ]
            self._answer(request, 200 if known else 404, json.dumps(tree).encode(), {}, body=body)
        elif kind == "revision" and known:
            if revision in COMMITS:
                document["sha"] = revision
            self._answer(request, 200, json.dumps(document).encode(), {}, body=body)
        else:
            self._answer(request, 404, b"{}", {"X-Error-Code": "RevisionNotFound"}, body=body)

    def _answer(
        self, request: BaseHTTPRequestHandler, status: int, data: bytes, headers: dict[str, str], *, body: bool
    ) -> None:
        request.send_response(status)
        for key, value in {"Content-Type": "application/json", "Content-Length": str(len(data)), **headers}.items():
            request.send_header(key, value)
        request.end_headers()
        if body:
            request.wfile.write(data)
