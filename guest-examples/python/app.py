"""What the component does with a request, by WASI 0.2: paths, queries, JSON, uploads, a stream."""

import json
import time
from urllib.parse import parse_qs, unquote, urlsplit

from componentize_py_types import Err, Ok
from wit_world import exports
from wit_world.imports.streams import StreamError_Closed
from wit_world.imports.types import (
    Fields, IncomingBody, IncomingRequest, Method_Get, Method_Post, OutgoingBody, OutgoingResponse, ResponseOutparam,
)

# What the interface takes at a time.
CHUNK = 4096


class IncomingHandler(exports.IncomingHandler):
    def handle(self, request: IncomingRequest, response_out: ResponseOutparam) -> None:
        url = urlsplit(request.path_with_query() or "/")
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        status, content_type, chunks = answer(request, unquote(url.path), query)
        response = OutgoingResponse(Fields.from_list([("content-type", content_type.encode()), ("x-layer", b"stamped")]))
        response.set_status_code(status)
        body = response.body()
        ResponseOutparam.set(response_out, Ok(response))
        with body.write() as stream:
            for chunk in chunks:
                for start in range(0, len(chunk), CHUNK):
                    stream.blocking_write_and_flush(chunk[start:start + CHUNK])
        OutgoingBody.finish(body, None)


def answer(request, path, query):
    """The status, the content type, and the body: chunks that may come one after the other."""
    method = request.method()
    match path.strip("/").split("/"):
        case [""] if isinstance(method, Method_Get):
            return 200, "text/plain", [b"Python in a function\n"]
        case ["users", text] if isinstance(method, Method_Get):
            number = int(text) if text.isdecimal() else 0
            if number == 0:
                return 404, "text/plain", [b"nobody\n"]
            return 200, "application/json", [json.dumps({"id": number, "name": f"user-{number}"}).encode()]
        case ["search"] if isinstance(method, Method_Get):
            text = f"page {query.get('page', 0)} of what is like {query.get('q')}\n"
            return 200, "text/plain", [text.encode()]
        case ["echo"] if isinstance(method, Method_Post):
            given = request.headers().get("content-type")
            # Handed on as it comes, and not held.
            return 200, given[0].decode() if given else "text/plain", upload(request)
        case ["sum"] if isinstance(method, Method_Post):
            return 200, "application/json", [json.dumps(sum(json.loads(b"".join(upload(request))))).encode()]
        case ["stream"] if isinstance(method, Method_Get):
            return 200, "text/plain", lines(int(query.get("count", 3)), int(query.get("interval-ms", 100)))
    return 404, "text/plain", [b"not found\n"]


def upload(request):
    body = request.consume()
    with body.stream() as stream:
        while True:
            try:
                yield stream.blocking_read(64 * 1024)
            except Err as end:
                if isinstance(end.value, StreamError_Closed):
                    break
                raise
    IncomingBody.finish(body)


def lines(count, interval_ms):
    for line in range(count):
        if line > 0:
            time.sleep(interval_ms / 1000)
        yield f"line {line}\n".encode()
