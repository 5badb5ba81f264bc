"""Real sites, real training, a Grid in this process. Oracles: bitwise determinism, and learning on an easy problem."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from flwr.app import Context, Message, RecordDict
from flwr.common.serde import message_from_proto, message_to_proto

from client import phases
from client.app import make_client_app
from client.site import SiteSettings
from segformer3d.errors import FederationError
from segformer3d.settings import TrainingSettings
from server.app import make_server_app
from server.federation import FederationSettings
from server.records import Event, RoundFinished
from server.run_folder import newest_state
from server.state import read_state

from ..client.tiny_site import TINY, ball_of_one_window, context_of, tiny_site
from .tiny_federation import TinyGrid, tiny_state

SETTINGS = FederationSettings(
    TINY,
    rounds=3,
    local_epochs=2,
    seed=5,
    minimum_sites=2,
    round_deadline_s=120.0,
    prepare_deadline_s=120.0,
    training=TrainingSettings(batch_size=2, learning_rate=3e-3),
)


@pytest.fixture(scope="module")
def hospitals(tmp_path_factory: pytest.TempPathFactory) -> list[SiteSettings]:
    folder = tmp_path_factory.mktemp("hospitals")
    return [tiny_site(folder, f"site-{n}", cases=3 + n, seed=n, draw=ball_of_one_window) for n in (1, 2)]


def as_new(hospitals: list[SiteSettings], folder: Path) -> list[SiteSettings]:
    """With empty work folders."""
    return [replace(site, work=folder / f"work-{site.name}") for site in hospitals]


@pytest.fixture
def sites(hospitals: list[SiteSettings], tmp_path: Path) -> list[SiteSettings]:
    return as_new(hospitals, tmp_path)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, hospitals: list[SiteSettings]) -> tuple[Path, list[Event]]:
    """The folder of a run, and what happened in it."""
    folder = tmp_path_factory.mktemp("undisturbed")
    return folder / "run", run(grid_of(as_new(hospitals, folder)), folder / "run")


pytestmark = pytest.mark.usefixtures("no_site_remembered")


def grid_of(sites: list[SiteSettings]) -> TinyGrid:
    """Node 1 is the first site, and so on, in the order of the list as it is pushed to."""
    by_node = {int(site.name[-1]): site for site in sites}
    app = make_client_app(lambda context: by_node[int(context.node_config["partition-id"])])

    def answer(message: Message) -> Message:
        copy = message_from_proto(message_to_proto(message))
        return message_from_proto(message_to_proto(app(copy, context_of(message.metadata.dst_node_id))))

    return TinyGrid(dict.fromkeys(by_node, answer))


def run(grid: TinyGrid, folder: Path, settings: FederationSettings = SETTINGS) -> list[Event]:
    events: list[Event] = []
    newest = newest_state(folder)
    state = read_state(newest) if newest else tiny_state(settings)
    server = make_server_app(settings, folder, state, events.append)
    server(grid, Context(1, 1, {}, RecordDict(), {}))
    return events


def result(folder: Path) -> bytes:
    return (folder / "last.safetensors").read_bytes()


def test_a_federation_learns_and_is_the_same_every_time(
    sites: list[SiteSettings], tmp_path: Path, undisturbed: tuple[Path, list[Event]]
) -> None:
    whole, events = undisturbed
    records = [event.record for event in events if isinstance(event, RoundFinished)]
    assert [[site.cases for site in record.sites] for record in records] == [[3, 4]] * 3
    losses = [sum(site.loss * site.share for site in record.sites) for record in records]
    assert losses[2] < losses[0]
    run(grid_of(sites[::-1]), tmp_path / "again")
    assert result(tmp_path / "again") == result(whole)


def test_a_run_that_was_broken_off_ends_like_one_that_was_not(
    sites: list[SiteSettings], tmp_path: Path, undisturbed: tuple[Path, list[Event]]
) -> None:
    broken = grid_of(sites)

    def interrupt(message_id: str) -> None:  # when both sites have trained, before their replies are in
        if broken.sent[-1].metadata.group_id == "2":
            raise KeyboardInterrupt

    broken.on_pull = interrupt
    with pytest.raises(KeyboardInterrupt):
        run(broken, tmp_path / "resumed")
    phases._data_of_site.clear()
    run(grid_of(sites), tmp_path / "resumed")
    assert result(tmp_path / "resumed") == result(undisturbed[0])
    lines = (tmp_path / "resumed" / "rounds.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["round"] for line in lines] == [1, 2, 3]


def test_a_hospital_without_data_does_not_stop_the_others(sites: list[SiteSettings], tmp_path: Path) -> None:
    broken = SiteSettings("site-3", tmp_path / "nothing", tmp_path / "work-3", "cpu", 1)
    run(grid_of([*sites, broken]), tmp_path / "run", replace(SETTINGS, rounds=1))
    first = json.loads((tmp_path / "run" / "rounds.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert [(item["site"], item["reason"]) for item in first["set_aside"]] == [("site-3", "no usable case")]
    assert str(tmp_path) not in json.dumps(first)


def test_a_federation_of_broken_hospitals_says_which_and_why(sites: list[SiteSettings], tmp_path: Path) -> None:
    sites[1] = replace(sites[1], data=tmp_path / "nothing")
    with pytest.raises(FederationError, match=r"1 of at least 2 sites .* \(site-2: no usable case\)"):
        run(grid_of(sites), tmp_path / "run")
