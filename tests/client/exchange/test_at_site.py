"""What a site remembers. Oracles: sums (nothing is lost for good), and the same bytes for the same question."""

from pathlib import Path

import numpy as np
import pytest

from client.exchange.at_site import HELD, held_at, receive_model, send_update
from client.exchange.coding import flat
from client.exchange.parcel import (
    Change,
    MissingBaseError,
    digest_of_weights,
    pack_change,
    pack_update,
    pack_whole,
    record_of_payload,
)
from client.exchange.settings import EXCHANGES
from client.limits import RefusalError, SiteLimits
from client.site import SiteSettings
from client.weights import Weights, encode_weights, is_buffer
from segformer3d.errors import ReplyError
from segformer3d.training import Part

from ..tiny_site import RUN, TINY, tiny_weights

COMPACT = EXCHANGES["compact"]
ROUNDS = 6


@pytest.fixture
def site(tmp_path: Path) -> SiteSettings:
    return SiteSettings("site-1", tmp_path / "data", tmp_path / "work")


def models(count: int, seed: int = 0) -> list[Change]:
    """What a server sends in so many rounds."""
    generator, exact, held, sent = np.random.default_rng(seed), tiny_weights(), None, []
    for _ in range(count):
        sent.append(pack_change(exact, held, COMPACT))
        held = sent[-1].model
        exact = {
            n: v if is_buffer(n) else v + generator.normal(0, 1e-3, v.shape).astype("f4") for n, v in exact.items()
        }
    return sent


def receive(site: SiteSettings, payload: bytes) -> Weights:
    return receive_model(site, RUN, TINY, record_of_payload(payload))


def update(number: int) -> Weights:
    generator = np.random.default_rng(100 + number)
    return {
        n: v + 1 if is_buffer(n) else generator.normal(0, 1e-3, v.shape).astype("f4") for n, v in tiny_weights().items()
    }


def part(number: int) -> Part:
    return Part(number - 1, ROUNDS, 1, 7, "site-1")


def play(
    site: SiteSettings, change: Change, number: int, name: str = "compact", counted: int | None = None
) -> tuple[Weights, bytes]:
    """A round of a site whose update of the round before has counted, if nothing else is said."""
    weights, last = receive(site, change.payload), number - 1 if counted is None else counted
    sent, payload = send_update(site.work / RUN, part(number), EXCHANGES[name], weights, update(number), last)
    assert payload is not None
    return sent, payload


def test_a_site_follows_the_changes_and_says_what_it_holds(site: SiteSettings) -> None:
    assert held_at(site.work / RUN).digest == ""
    for change in models(3):
        assert digest_of_weights(receive(site, change.payload)) == change.digest
        assert held_at(site.work / RUN).digest == change.digest


def test_a_site_that_is_asked_again_needs_no_base(site: SiteSettings) -> None:
    for change in models(2):
        receive(site, change.payload)
    assert digest_of_weights(receive(site, change.payload)) == change.digest


@pytest.mark.parametrize("lost", ["never held", "missed a round", "damaged", "cut off", "another"])
def test_a_site_without_the_base_says_so_and_can_do_with_the_whole(site: SiteSettings, lost: str) -> None:
    first, second, third = models(3)
    path = site.work / RUN / HELD
    if lost != "never held":
        receive(site, first.payload)
    if lost not in ("never held", "missed a round"):
        receive(site, second.payload)
    if lost == "damaged":
        content = path.read_bytes()
        path.write_bytes(content[:-1000] + bytes(1000))
    if lost == "cut off":
        path.write_bytes(path.read_bytes()[:-1])
    if lost == "another":
        receive(site, models(1, seed=9)[0].payload)
        receive(site, models(2, seed=9)[1].payload)
    with pytest.raises(MissingBaseError):
        receive(site, third.payload)
    assert digest_of_weights(receive(site, pack_whole(third.model, third.digest, third.base))) == third.digest


def test_models_that_lie_are_refused(site: SiteSettings) -> None:
    (first,) = models(1)
    with pytest.raises(ReplyError, match="not the one that its digest says"):
        receive(site, pack_whole(first.model, "a" * 64, ""))
    assert not (site.work / RUN / HELD).exists()
    up = COMPACT.up
    assert up is not None
    with pytest.raises(ReplyError, match="without its digest"):
        receive(site, pack_update(update(1), "", up, (1,))[1])


def test_limits_are_looked_at_before_anything_of_the_models_size_is_made(site: SiteSettings) -> None:
    limited = SiteSettings(site.name, site.data, site.work, limits=SiteLimits(tasks=("hippocampus",)))
    with pytest.raises(RefusalError):
        receive(limited, models(1)[0].payload)


def test_plain_models_are_not_kept(site: SiteSettings) -> None:
    receive_model(site, RUN, TINY, encode_weights(tiny_weights()))
    assert not (site.work / RUN).exists()
    own = update(1)
    assert send_update(site.work / RUN, part(1), EXCHANGES["fp32"], tiny_weights(), own, 0) == (own, None)
    assert not (site.work / RUN).exists()


@pytest.mark.parametrize("name", [name for name, exchange in EXCHANGES.items() if not exchange.plain])
def test_nothing_is_lost_for_good(site: SiteSettings, name: str) -> None:
    """What arrives in all rounds together is all updates together but for what the last one lost, which stays small."""
    arrived = [flat(play(site, change, n, name)[0]).astype(np.float64) for n, change in enumerate(models(ROUNDS), 1)]
    wanted = [flat(update(n)).astype(np.float64) for n in range(1, ROUNDS + 1)]
    missing = np.linalg.norm(sum(wanted) - sum(arrived)) / np.linalg.norm(wanted[0])
    # A codec that loses a share d of the square leaves d (1 + d + d² + ...) of an update's square behind.
    assert missing**2 < {"sparse": 5.0, "int2": 0.3, "compact": 0.13, "int4": 0.1}.get(name, 1e-3)
    alone = np.linalg.norm(wanted[0] - arrived[0]) / np.linalg.norm(wanted[0])
    assert missing**2 < 1.6 * alone**2 / max(1 - alone**2, 0.2) + 1e-9


def test_a_round_that_is_redone_gives_the_same_bytes(site: SiteSettings) -> None:
    changes = models(4)
    payloads = [play(site, change, n)[1] for n, change in enumerate(changes, 1)]
    assert play(site, changes[3], 4)[1] == payloads[3]  # the reply was lost
    (site.work / RUN / "residual-0004.safetensors").unlink()  # or the site died before it was done
    assert play(site, changes[3], 4)[1] == payloads[3]
    (site.work / RUN / HELD).unlink()
    receive(site, whole(changes[3]))  # however the model came
    assert play(site, changes[3], 4)[1] == payloads[3]
    assert len(set(payloads)) == 4


def whole(change: Change) -> bytes:
    return pack_whole(change.model, change.digest, change.base)


@pytest.fixture
def without(tmp_path: Path) -> bytes:
    """What a site sends in round 3 that has lost nothing before."""
    fresh, change = SiteSettings("site-1", tmp_path, tmp_path / "fresh"), models(3)[2]
    receive(fresh, whole(change))
    return play(fresh, change, 3, counted=0)[1]


def test_what_was_lost_in_another_past_is_dropped(site: SiteSettings, without: bytes) -> None:
    """Round 2 was redone with other sites."""
    change, others = models(3)[2], models(2, seed=4)
    for n in (1, 2):
        play(site, others[n - 1], n)
    receive(site, whole(change))
    assert play(site, change, 3)[1] == without


@pytest.mark.parametrize("name", ["compact", "sparse"])
def test_what_was_lost_waits_while_a_site_misses_rounds(site: SiteSettings, name: str) -> None:
    changes, (one, three) = models(3), (flat(update(n)).astype(np.float64) for n in (1, 3))
    first = flat(play(site, changes[0], 1, name)[0])
    receive(site, whole(changes[2]))
    last = flat(play(site, changes[2], 3, name, counted=1)[0])
    left = np.linalg.norm(one + three - first - last)
    again = flat(play(site, changes[2], 3, name, counted=1)[0])
    assert np.array_equal(last, again)
    dropped = flat(play(site, changes[2], 3, name, counted=0)[0])
    assert left < np.linalg.norm(one + three - first - dropped)


def test_what_an_update_lost_that_did_not_count_is_dropped(site: SiteSettings) -> None:
    """It came too late, say: what is missing at the server is what the update before it lost."""
    changes = models(3)
    play(site, changes[0], 1)
    receive(site, changes[1].payload)
    receive(site, changes[2].payload)
    expected = play(site, changes[2], 3, counted=1)[1]
    for name in ("held", "residual-0003"):
        (site.work / RUN / f"{name}.safetensors").unlink()
    receive(site, whole(changes[1]))
    play(site, changes[1], 2)
    assert play(site, changes[2], 3, counted=1)[1] == expected
    assert play(site, changes[2], 3, counted=0)[1] != expected


@pytest.mark.parametrize("how", ["cut off", "of another model"])
def test_a_damaged_residual_is_dropped(site: SiteSettings, how: str, without: bytes) -> None:
    changes = models(3)
    for n in (1, 2):
        play(site, changes[n - 1], n)
    path = site.work / RUN / "residual-0002.safetensors"
    path.write_bytes(path.read_bytes()[:-1] if how == "cut off" else (site.work / RUN / HELD).read_bytes())
    assert play(site, changes[2], 3)[1] == without


def test_an_update_that_is_not_finite_is_not_sent_and_leaves_nothing(site: SiteSettings) -> None:
    (first,) = models(1)
    weights = receive(site, first.payload)
    exploded = {n: v if is_buffer(n) else np.full_like(v, np.inf) for n, v in update(1).items()}
    with pytest.raises(ReplyError, match="not finite"):
        send_update(site.work / RUN, part(1), COMPACT, weights, exploded, 0)
    assert not list((site.work / RUN).glob("residual-*"))
