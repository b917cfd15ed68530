"""What the component does with a request: routes.py answers it. By WASI 0.2, through the bindings of componentize-py."""

import routes
from componentize_py_types import Ok
from wit_world import exports
from wit_world.imports.types import Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam


class IncomingHandler(exports.IncomingHandler):
    def handle(self, request: IncomingRequest, response_out: ResponseOutparam) -> None:
        status, content_type, content = routes.answer(request.path_with_query() or "/")
        response = OutgoingResponse(Fields.from_list([("content-type", content_type.encode())]))
        response.set_status_code(status)
        body = response.body()
        ResponseOutparam.set(response_out, Ok(response))
        with body.write() as stream:
            # The interface takes 4 KiB at a time.
            for start in range(0, len(content), 4096):
                stream.blocking_write_and_flush(content[start:start + 4096])
        OutgoingBody.finish(body, None)
