"""A way to a PostgreSQL server that can go silent, as a network does: it takes everything, and passes nothing on.

It runs in a process of its own, so that nothing in the tests' can hold it up.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Iterator
from urllib.parse import urlencode

from psycopg.conninfo import conninfo_to_dict


class Proxy:
    """A proxy that runs; ``url`` is the way to the database through it."""

    def __init__(self, process: subprocess.Popen[bytes], url: str) -> None:
        self._process = process
        self.url = url

    def silence(self) -> None:
        self._say("silence")

    def speak(self) -> None:
        self._say("speak")

    def silence_at(self, words: str) -> None:
        """Go silent as soon as a client says these words."""
        self._say(f"silence at {words}")

    def _say(self, command: str) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{command}\n".encode())
        self._process.stdin.flush()
        assert self._process.stdout.readline() == b"done\n"


@contextlib.contextmanager
def proxy_to(url: str) -> Iterator[Proxy]:
    """Run a proxy to a server for as long as the block."""
    parts = {"host": "localhost", "port": "5432", **{name: str(value) for name, value in conninfo_to_dict(url).items()}}
    command = [sys.executable, "-m", "tests.proxy", parts.pop("host"), parts.pop("port")]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    port = int(process.stdout.readline())
    user, password, name = (parts.pop(key, "") for key in ("user", "password", "dbname"))
    words = urlencode({**parts, "sslmode": "disable", "gssencmode": "disable"})
    try:
        yield Proxy(process, f"postgresql://{user}:{password}@127.0.0.1:{port}/{name}?{words}")
    finally:
        process.kill()
        process.communicate()


async def main(host: str, port: str) -> None:
    speaking, tokens = asyncio.Event(), set[bytes]()
    speaking.set()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if any(token in data for token in tokens):
                    speaking.clear()
                await speaking.wait()
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if host.startswith("/"):
            there = await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
        else:
            there = await asyncio.open_connection(host, int(port))
        await asyncio.gather(pump(reader, there[1]), pump(there[0], writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    while command := await asyncio.to_thread(sys.stdin.readline):
        what, _, words = command.strip().partition(" at ")
        if words:
            tokens.add(words.encode())
        elif what == "silence":
            speaking.clear()
        else:
            tokens.clear()
            speaking.set()
        print("done", flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
