"""Who takes part: sites that are connected and have said that their data is ready.

Every site that connects is asked once to prepare its data, at the start of the run or in the middle of it (a site that
was restarted comes back as a new node). One that could not is asked again at the next round. A round is never held up
by a newcomer that is still preparing.
"""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from flwr.app import Error, RecordDict

from client.contract import PREPARE, PrepareReply, PrepareRequest
from client.failures import read_error
from segformer3d.errors import FederationError, ReplyError
from server.mailbox import Answer, Mailbox, Unusable
from server.repeats import Failure, Repeats
from server.replies import SetAside, check_prepare, set_aside

MOST_IN_A_ROW = 3
SILENCE_S = 60.0  # preparing may take longer, and is then asked for once more in vain
PHASE = "prepare"  # for people; Flower's message type is "query"


@dataclass(frozen=True)
class Member:
    """A site that can take part: Flower's id of its node, and what it said about its data."""

    node: int
    ready: PrepareReply

    @property
    def site(self) -> str:
        """Its name."""
        return self.ready.site


class Roster:
    """The sites of a run.

    Args:
        mailbox: how to reach them.
        request: what they are asked when they come.
        minimum: how many it takes.
        deadline_s: how long a site may prepare, and how long `gather` waits for enough sites.
        report: told of every site that cannot take part.
        registered: the name under which a node may take part; None where that is not known. Without it any name goes.
        again_s: how long to wait for a site that failed and is asked again, when all others are done; 0: not at all.
    """

    def __init__(
        self,
        mailbox: Mailbox,
        request: PrepareRequest,
        minimum: int,
        deadline_s: float,
        report: Callable[[SetAside], None],
        registered: Callable[[int], str | None] | None = None,
        again_s: float = 0,
    ) -> None:
        self._mailbox = mailbox
        self._request = request
        self._minimum = minimum
        self._deadline_s = deadline_s
        self._report = report
        self._registered = registered
        self._again_s = again_s
        self._members: dict[int, Member] = {}
        self._failed: dict[int, SetAside] = {}
        self._in_a_row: Counter[int] = Counter()
        self._repeats = Repeats(again_s)

    def gather(self, *, settle: bool) -> tuple[Member, ...]:
        """The connected sites that are ready, by name, once there are enough of them.

        With `settle`, everyone who is connected gets to answer first.

        Raises:
            FederationError: too few sites came in time, or all came and too few can take part.
        """
        began = last_ready = time.monotonic()
        deadline = began + self._deadline_s
        self._failed.clear()
        while True:
            online = self._mailbox.online()
            self._ask_again(online)
            self._invite(online)
            for answer in self._mailbox.look(deadline):
                self.take(answer)
                last_ready = time.monotonic() if answer.node in self._members else last_ready
            ready, hopeful = self._ready(online), self._repeats.hopeful(last_ready)
            asked = self._mailbox.waiting(PREPARE) & online
            if len(ready) >= self._minimum and not (settle and (asked or hopeful)):
                return ready
            hopeless = not asked and not hopeful and len(online) >= self._minimum
            if hopeless or time.monotonic() >= deadline:
                return self._enough(ready, online)
            time.sleep(self._mailbox.pause_after(time.monotonic() - began))

    def online(self) -> tuple[Member, ...]:
        """The sites that are ready and connected now, by name."""
        return self._ready(self._mailbox.online())

    def take(self, answer: Answer) -> None:
        """Enter a site that answers that its data is ready, or report why it cannot take part."""
        outcome = self._read(answer)
        if isinstance(outcome, Failure):
            self._failed[answer.node] = outcome.what
            if self._again_s and not outcome.final:
                self._repeats.add(answer.node, outcome.what)
            self._report(outcome.what)
        else:
            self._members[answer.node] = outcome

    def _ask_again(self, online: set[int]) -> None:
        """Make newcomers of the sites that failed a while ago, and repeat oneself to those that keep silent."""
        silent = self._mailbox.silent(PREPARE, lambda _: SILENCE_S) & online if self._again_s else set()
        if silent:
            self._mailbox.send(PREPARE, "0", sorted(silent), self._request.encode(), self._deadline_s)
        for node in self._repeats.due():
            self._repeats.asked(node)
            self._failed.pop(node, None)

    def note_round(self, member: Member, *, good: bool) -> None:
        """A site has or has not done its part of a round.

        After three in a row that it has not, no round waits for it until it says again that its data is ready.
        """
        self._in_a_row[member.node] = 0 if good else self._in_a_row[member.node] + 1
        if self._in_a_row[member.node] >= MOST_IN_A_ROW:
            del self._in_a_row[member.node]
            self._members.pop(member.node, None)
            reason = f"it failed {MOST_IN_A_ROW} rounds in a row, and is left out until it answers again"
            self._report(SetAside(member.site, PHASE, reason, "check the site, and restart it if it hangs"))

    def _invite(self, online: set[int]) -> None:
        known = set(self._members) | set(self._failed) | self._mailbox.waiting(PREPARE)
        newcomers = sorted(online - known)
        if newcomers:
            records = self._request.encode()
            for node in self._mailbox.send(PREPARE, "0", newcomers, records, self._deadline_s):
                self._failed[node] = SetAside(f"node {node}", PHASE, "it could not be asked", "restart the site")
                self._report(self._failed[node])

    def _ready(self, online: set[int]) -> tuple[Member, ...]:
        return tuple(sorted((m for node, m in self._members.items() if node in online), key=lambda m: m.site))

    def _enough(self, ready: tuple[Member, ...], online: set[int]) -> tuple[Member, ...]:
        if len(ready) >= self._minimum:
            return ready
        failures = "; ".join(f"{failed.site}: {failed.reason}" for failed in self._failed.values())
        raise FederationError(
            f"{len(ready)} of at least {self._minimum} sites can take part, with {len(online)} connected"
            f"{f' ({failures})' if failures else ''}; connect or repair sites, then start or resume the run"
        )

    def _read(self, answer: Answer) -> Member | Failure:
        known = self._members.get(answer.node)
        name = known.site if known else f"node {answer.node}"
        content = answer.content
        if isinstance(content, Unusable):
            return Failure(SetAside(name, PHASE, content.reason, content.remedy), final=False)
        if isinstance(content, Error):
            failure = read_error(content, name, PREPARE)
            return Failure(SetAside(failure.site, PHASE, failure.reason, failure.remedy), failure.final)
        admitted = self._admit(answer.node, name, content)
        return admitted if isinstance(admitted, Member) else Failure(admitted, final=True)

    def _admit(self, node: int, name: str, content: RecordDict) -> Member | SetAside:
        try:
            reply = PrepareReply.decode(content)
            name = reply.site
            check_prepare(reply, self._request)
        except ReplyError as error:
            return set_aside(name, PHASE, error)
        allowed = self._registered(node) if self._registered else name
        if name != allowed:
            reason = f"it is registered as {allowed or 'nobody'} and calls itself {name}"
            return SetAside(allowed or name, PHASE, reason, "set the registered name in the site's site.toml")
        namesakes = [other for other, member in self._members.items() if member.site == name and other != node]
        if set(namesakes) & self._mailbox.online():
            return SetAside(name, PHASE, f"another site is called {name} too", "give each site a name of its own")
        for gone in namesakes:  # the same site, restarted
            del self._members[gone]
        return Member(node, reply)
