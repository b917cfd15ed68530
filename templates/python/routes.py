"""Routes and what they answer. Nothing of WASI is in here, so that tests run where Python does."""

import json
from urllib.parse import unquote, urlsplit


def answer(target: str) -> tuple[int, str, bytes]:
    """The status, content type and body for what was asked: a function sees the whole path of a request."""
    path = unquote(urlsplit(target).path).rstrip("/") or "/"
    if path == "/template-route":
        return 200, "text/plain", b"Hello, world!\n"
    name = path.removeprefix("/template-route/")
    if path.startswith("/template-route/") and "/" not in name:
        return 200, "application/json", json.dumps({"hello": name}).encode()
    return 404, "text/plain", b"not found\n"
