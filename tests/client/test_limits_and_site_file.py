"""What a site insists on, and the file in which it says so."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from flwr.app import Message

from client.app import make_client_app
from client.failures import SITE_REFUSAL
from client.limits import SiteLimits
from client.site import SiteSettings
from client.site_file import SITE_FILE, read_site_file, write_site_file
from segformer3d.addresses import Address
from segformer3d.errors import ConfigurationError

from .tiny_site import context_of, prepare_message, tiny_site, train_message

ADDRESS = Address("fed.example.org", 8443)


def refusal(site: SiteSettings, message: Message) -> str:
    reply = make_client_app(lambda context: site)(message, context_of())
    assert reply.error.code == SITE_REFUSAL
    return reply.error.reason or ""


@pytest.mark.parametrize(
    ("limits", "message", "text"),
    [
        (SiteLimits(tasks=("brats2017",)), prepare_message, "it takes no part in the task tiny"),
        (SiteLimits(tasks=("brats2017",)), train_message, "it takes no part in the task tiny"),
        (SiteLimits(smallest_cohort=40), prepare_message, "it has fewer training cases than the 40 it insists on"),
        (SiteLimits(smallest_cohort=40), train_message, "it has fewer training cases than the 40 it insists on"),
        (SiteLimits(private_only=True), prepare_message, "it takes part in runs with differential privacy only"),
        (SiteLimits(private_only=True), train_message, "it takes part in runs with differential privacy only"),
        (SiteLimits(most_rounds=3), train_message, "the run asks for 4 rounds and it does 3 at most"),
    ],
)
def test_what_a_site_insists_on_holds_whatever_is_asked(
    limits: SiteLimits, message: object, text: str, tmp_path: Path
) -> None:
    site = replace(tiny_site(tmp_path), limits=limits)
    assert re.search(f"{text}.*; settle it with the site", refusal(site, message()))  # type: ignore[operator]
    assert not list(site.work.glob("run-1/*")), "nothing was trained"


def test_a_site_within_its_limits_takes_part(tmp_path: Path) -> None:
    limits = SiteLimits(smallest_cohort=2, tasks=("tiny",), most_rounds=4, most_local_epochs=1)
    site = replace(tiny_site(tmp_path), limits=limits)
    assert make_client_app(lambda context: site)(train_message(), context_of()).has_content()


@pytest.mark.parametrize(
    "wrong",
    [
        {"smallest_cohort": 0},
        {"most_rounds": 1.0},
        {"tasks": ["a"]},
        {"tasks": ("",)},
        {"private_only": 1},
        {"run_epsilon": 0},
        {"epsilon": "8"},
        {"delta": 1},
    ],
)
def test_limits_are_checked(wrong: dict[str, object]) -> None:
    (name,) = wrong
    with pytest.raises(ConfigurationError, match=name):
        SiteLimits(**wrong)  # type: ignore[arg-type]


def test_the_file_that_init_writes_can_be_read(tmp_path: Path) -> None:
    write_site_file(tmp_path, "north", Path('/data/a "b" \\c'), ADDRESS)
    site = read_site_file(tmp_path)
    assert (site.site.name, site.site.data, site.coordinator) == ("north", Path('/data/a "b" \\c'), ADDRESS)
    assert (site.site.work, site.proxy, site.site.limits) == (tmp_path / "work", None, SiteLimits())
    assert not site.site.leave_out_published
    told = (tmp_path / SITE_FILE).read_text().replace("# leave_out_published", "leave_out_published")
    (tmp_path / SITE_FILE).write_text(told)
    assert read_site_file(tmp_path).site.leave_out_published


WHOLE = 'name = "north"\ndata = "d"\n[coordinator]\naddress = "h:1"\ncertificate = "c"\n'


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("name = ", "is not valid TOML"),
        (WHOLE.replace("name", "nom"), "unknown setting 'nom'"),
        (WHOLE.replace('"north"', "3"), "needs a text 'name'"),
        (WHOLE.replace('"h:1"', '"h"'), "an address is HOST:PORT"),
        (WHOLE.replace('"h:1"', '"h:99999"'), "a port must be in"),
        (WHOLE.replace('"h:1"', '"h/../x:1"'), "a host is a name or an IP address"),
        (WHOLE + 'proxy = "socks://x"\n', "proxy must be"),
        (WHOLE + "[limits]\nmost = 3\n", "unknown setting 'most'"),
        (WHOLE + "[limits]\nsmallest_cohort = 0\n", "smallest_cohort must be"),
        (WHOLE.replace('"north"', '"../north"'), "a site's name takes"),
        ("limits = 3\n" + WHOLE, "limits must be a table"),
        ("leave_out_published = 1\n" + WHOLE, "leave_out_published must be true or false"),
    ],
)
def test_each_mistake_in_the_file_is_one_line(text: str, told: str, tmp_path: Path) -> None:
    (tmp_path / SITE_FILE).write_text(text)
    with pytest.raises(ConfigurationError, match=told) as caught:
        read_site_file(tmp_path)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_a_folder_without_a_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="segfed site init"):
        read_site_file(tmp_path)
