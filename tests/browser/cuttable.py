"""A line between browser and console that can be cut as networks are: silently, with every socket left open."""

from __future__ import annotations

import asyncio
import threading


class Line:
    """Forwards 127.0.0.1:``port`` to the console; while cut, bytes vanish and nobody is told."""

    def __init__(self, console_port: int) -> None:
        self._console_port = console_port
        self._loop = asyncio.new_event_loop()
        self._is_whole = True
        self.port = 0

    def __enter__(self) -> Line:
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(60)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(60)
        self._loop.call_soon_threadsafe(self._loop.stop)

    def cut(self) -> None:
        self._is_whole = False

    def mend(self) -> None:
        """New connections work; those that lost bytes stay dead, as after a change of networks."""
        self._is_whole = True

    async def _listen(self) -> None:
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]

    async def _end(self) -> None:
        connected = asyncio.all_tasks() - {asyncio.current_task()}
        for task in connected:
            task.cancel()
        await asyncio.gather(*connected, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._console_port)
        state = {"whole": True}
        await asyncio.gather(self._forward(reader, back, state), self._forward(there, writer, state))

    async def _forward(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, state: dict[str, bool]
    ) -> None:
        try:
            while data := await reader.read(65536):
                state["whole"] = state["whole"] and self._is_whole
                if state["whole"]:
                    writer.write(data)
                    await writer.drain()
            if state["whole"]:
                writer.close()
        except ConnectionError:
            writer.close()
