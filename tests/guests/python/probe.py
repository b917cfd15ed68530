"""Asks a store, an embedded database, a database of a server and a variable for something, by the SDK `spin-sdk` as it is published."""

from spin_sdk import key_value, postgres, sqlite, variables
from spin_sdk.http import Handler, Request, Response


class HttpHandler(Handler):
    async def handle_request(self, request: Request) -> Response:
        try:
            text, status = await ANSWERS[request.uri.lstrip("/")](), 200
        except Exception as error:
            text, status = f"{type(error).__name__} {getattr(error, 'value', error)}", 422
        return Response(status, {"content-type": "text/plain"}, text.encode())


async def store():
    with await key_value.open_default() as store:
        before = int(await store.get("visits") or b"0")
        await store.set("visits", str(before + 1).encode())
        return str(int(await store.get("visits")))


async def other_store():
    with await key_value.open("other") as store:
        return str(await store.get("visits"))


async def notes():
    with await sqlite.Connection.open("notes") as database:
        await database.execute("CREATE TABLE IF NOT EXISTS notes (text TEXT)", [])
        await database.execute("INSERT INTO notes VALUES (?)", [sqlite.Value_Text("from Python")])
        columns, rows, done = await database.execute("SELECT count(*) AS many, max(text) AS text FROM notes", [])
        return f"{columns} {await all_of(rows, done)}"


async def orders():
    with await postgres.Connection.open("orders") as database:
        columns, rows, done = await database.query("SELECT 6 * 7 AS answer", [])
        return f"{[column.name for column in columns]} {await all_of(rows, done)}"


async def region():
    return await variables.get("region")


async def all_of(rows, done):
    found = []
    with rows, done:
        while not rows.writer_dropped:
            found += await rows.read(16)
        await done.read()
    return found


ANSWERS = {"store": store, "other-store": other_store, "notes": notes, "orders": orders, "region": region}
