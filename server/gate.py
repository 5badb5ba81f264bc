"""The gate: the one port that the outside reaches.

Flower's SuperLink serves three APIs on one port, and whoever reaches it may submit apps and take tasks. So it listens
on loopback only, and the gate passes on what a SuperNode needs (`POST /v1/fleet/...`) and nothing else. It ends the TLS
of the outside, limits how many connect, how long they may take and how much they may send, and speaks HTTP by h11: what
is no valid request is answered with an error and the connection is closed.
"""

import asyncio
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from email.utils import formatdate

import h11

from client.names import CONTRACT_HEADER, CONTRACT_VERSION
from segformer3d.addresses import Address

# What a registered SuperNode calls. It neither registers nor unregisters itself: the coordinator does that.
_CALLS = (
    "activate-node",
    "deactivate-node",
    "send-node-heartbeat",
    "pull-messages",
    "push-messages",
    "get-run",
    "get-fab",
    "push-object",
    "pull-object",
    "confirm-message-received",
)
PATHS = frozenset(f"/v1/fleet/{call}".encode() for call in _CALLS)
_OF_ONE_HOP = {b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade"}
SERVER = "segfed"
LINGER_S, LINGER_CHUNKS = 1.0, 64
_CHUNK = 2**16

Refused = Callable[[str, int, str], None]


@dataclass(frozen=True)
class GateLimits:
    """What the gate puts up with.

    Attributes:
        connections, connections_a_host: open at the same time, in all and from one address (a hospital behind NAT has
            one for all its sites).
        body: bytes of a request, at most; Flower sends models in pieces of 5 MiB.
        handshake_s, header_s, idle_s: seconds for the TLS handshake, for a request's header, and between two requests.
        slowest: bytes a second that a body must bring on average, after `header_s`.
        answer_s: seconds that SuperLink may take to answer.
    """

    connections: int = 512
    connections_a_host: int = 64
    body: int = 32 * 2**20
    handshake_s: float = 15.0
    header_s: float = 15.0
    idle_s: float = 90.0
    slowest: float = 4096.0
    answer_s: float = 60.0


class Gate:
    """The gate in front of one SuperLink.

    Args:
        outside: TLS settings of the public port.
        superlink, inside: where SuperLink listens, and TLS settings to reach it.
        limits: see `GateLimits`.
        refused: told of every request that is not passed on: from where, which HTTP status, and why.
    """

    def __init__(
        self, outside: ssl.SSLContext, superlink: Address, inside: ssl.SSLContext, limits: GateLimits, refused: Refused
    ) -> None:
        self._outside = outside
        self._superlink = superlink
        self._inside = inside
        self._limits = limits
        self._refused = refused
        self._hosts: Counter[str] = Counter()

    async def serve(self, listen: Address) -> None:
        """Serve until cancelled."""
        server = await asyncio.start_server(self._accept, listen.host, listen.port, limit=2 * _CHUNK, backlog=1024)
        async with server:
            await server.serve_forever()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, counted before it has proved anything."""
        host = (writer.get_extra_info("peername") or ("unknown",))[0]
        if self._hosts.total() >= self._limits.connections or self._hosts[host] >= self._limits.connections_a_host:
            self._refused(host, 0, "too many connections")
            writer.transport.abort()
            return
        self._hosts[host] += 1
        try:
            await writer.start_tls(self._outside, ssl_handshake_timeout=self._limits.handshake_s)
            await _Visit(self, host, reader, writer).serve()
        except (ssl.SSLError, OSError, EOFError, TimeoutError, asyncio.IncompleteReadError) as error:
            self._refused(host, 0, f"the connection broke ({type(error).__name__})")
        finally:
            self._hosts[host] -= 1
            self._hosts += Counter()  # forget hosts without connections
            writer.transport.abort()

    async def reach(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection to SuperLink."""
        return await asyncio.open_connection(
            self._superlink.host, self._superlink.port, ssl=self._inside, limit=2 * _CHUNK
        )

    @property
    def limits(self) -> GateLimits:
        """See `GateLimits`."""
        return self._limits

    def refuse(self, host: str, status: int, why: str) -> None:
        """Tell that a request is not passed on."""
        self._refused(host, status, why)


class _RefusalError(Exception):
    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class _Visit:
    """The requests of one connection, one after another."""

    def __init__(self, gate: Gate, host: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._gate = gate
        self._host = host
        self._reader, self._writer = reader, writer
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=16 * 1024)

    async def serve(self) -> None:
        while True:
            try:
                request = await self._request()
                if request is None:
                    return
                await self._pass_on(request)
                self._http.start_next_cycle()
            except _RefusalError as refusal:
                self._gate.refuse(self._host, refusal.status, str(refusal))
                await self._answer(refusal.status, str(refusal))
                return
            except (h11.RemoteProtocolError, h11.LocalProtocolError):
                self._gate.refuse(self._host, 400, "no valid HTTP request")
                await self._answer(400, "no valid HTTP request")
                return

    async def _request(self) -> h11.Request | None:
        """The next request's header; None when the visitor has gone or has nothing more to ask."""
        limits = self._gate.limits
        deadline = time.monotonic() + limits.idle_s
        begun = False
        while (event := self._http.next_event()) is h11.NEED_DATA:
            try:
                data = await asyncio.wait_for(self._reader.read(_CHUNK), deadline - time.monotonic())
            except TimeoutError:
                if begun:
                    raise _RefusalError(408, "the request's header took too long") from None
                return None
            if not begun:
                begun, deadline = True, time.monotonic() + limits.header_s
            self._http.receive_data(data)
        if not isinstance(event, h11.Request):  # the visitor has closed the connection
            return None
        self._check(event)
        return event

    def _check(self, request: h11.Request) -> None:
        path = request.target.partition(b"?")[0]
        if path not in PATHS or request.target != path:
            raise _RefusalError(404, "there is nothing here")
        if request.method != b"POST":
            raise _RefusalError(405, "only POST")
        headers = dict(request.headers)
        length = headers.get(b"content-length", b"")
        if not length.isdigit() or b"transfer-encoding" in headers:
            raise _RefusalError(411, "a request must say how long it is")
        if len(length) > 12 or int(length) > self._gate.limits.body:
            raise _RefusalError(413, f"a request may have {self._gate.limits.body} bytes at most")

    async def _pass_on(self, request: h11.Request) -> None:
        """The request to SuperLink and its answer back, piece by piece."""
        try:
            reader, writer = await self._gate.reach()
        except OSError:
            raise _RefusalError(503, "the coordinator is starting; try again") from None
        try:
            upstream = _Upstream(reader, writer, self._gate.limits.answer_s)
            await upstream.send(h11.Request(method=b"POST", target=request.target, headers=_passed(request.headers)))
            async for piece in self._body():
                await upstream.send(h11.Data(data=piece))
            await upstream.send(h11.EndOfMessage())
            async for event in upstream.events():
                self._writer.write(self._http.send(_own(event)) or b"")
                await asyncio.wait_for(self._writer.drain(), self._gate.limits.idle_s)
        finally:
            writer.transport.abort()

    async def _body(self) -> AsyncIterator[bytes]:
        limits = self._gate.limits
        began, received = time.monotonic(), 0
        while True:
            event = self._http.next_event()
            if isinstance(event, h11.EndOfMessage):
                return
            if isinstance(event, h11.Data):
                received += len(event.data)
                yield bytes(event.data)
                continue
            if event is not h11.NEED_DATA:
                raise _RefusalError(400, "the request broke off")
            left = began + limits.header_s + received / limits.slowest - time.monotonic()
            try:
                self._http.receive_data(await asyncio.wait_for(self._reader.read(_CHUNK), max(left, 0.001)))
            except TimeoutError:
                raise _RefusalError(408, "the request took too long") from None

    async def _answer(self, status: int, text: str) -> None:
        body = f"{text}\n".encode()
        headers = [
            ("server", SERVER),
            (CONTRACT_HEADER, str(CONTRACT_VERSION)),
            ("date", formatdate(usegmt=True)),
            ("connection", "close"),
        ]
        headers += [("content-type", "text/plain"), ("content-length", str(len(body)))]
        with suppress(h11.LocalProtocolError, OSError, TimeoutError):
            for event in (h11.Response(status_code=status, headers=headers), h11.Data(data=body), h11.EndOfMessage()):
                self._writer.write(self._http.send(event) or b"")
            await asyncio.wait_for(self._writer.drain(), self._gate.limits.header_s)
            await asyncio.wait_for(self._see_off(), LINGER_S)

    async def _see_off(self) -> None:
        """Take what is on its way already: closing at once would destroy the answer before it is read."""
        for _ in range(LINGER_CHUNKS):
            if not await self._reader.read(_CHUNK):
                return


class _Upstream:
    """One exchange with SuperLink."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, patience_s: float) -> None:
        self._reader, self._writer = reader, writer
        self._patience_s = patience_s
        self._http = h11.Connection(h11.CLIENT)

    async def send(self, event: h11.Request | h11.Data | h11.EndOfMessage) -> None:
        try:
            self._writer.write(self._http.send(event) or b"")
            await asyncio.wait_for(self._writer.drain(), self._patience_s)
        except (OSError, TimeoutError):
            raise _RefusalError(502, "the coordinator does not take the request; try again") from None

    async def events(self) -> AsyncIterator[h11.Response | h11.Data | h11.EndOfMessage]:
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                self._http.receive_data(await self._read())
            elif isinstance(event, h11.Response | h11.Data | h11.EndOfMessage):
                yield event
                if isinstance(event, h11.EndOfMessage):
                    return
            elif not isinstance(event, h11.InformationalResponse):
                raise _RefusalError(502, "the coordinator broke off; try again")

    async def _read(self) -> bytes:
        try:
            return await asyncio.wait_for(self._reader.read(_CHUNK), self._patience_s)
        except (OSError, TimeoutError):
            raise _RefusalError(504, "the coordinator does not answer; try again") from None


def _own(event: h11.Response | h11.Data | h11.EndOfMessage) -> h11.Response | h11.Data | h11.EndOfMessage:
    """An event of SuperLink's as the visitor gets it."""
    if isinstance(event, h11.Response):
        return h11.Response(status_code=event.status_code, headers=_passed(event.headers))
    return event


def _passed(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    return [(name, value) for name, value in headers if name.lower() not in _OF_ONE_HOP]
