"""What every message of the contract says of itself: which version it is, which run it belongs to, and who answers."""

import json
from collections.abc import Mapping
from typing import Any

from flwr.app import ConfigRecord, RecordDict

from client.names import CONTRACT_VERSION, RUN_NAME, SITE_NAME
from client.privacy.promise import Promise
from client.privacy.settings import PrivacySettings
from client.records import check_names, read_fields, read_json, record_of
from client.strategies.rule import LocalRule
from segformer3d.errors import ReplyError
from segformer3d.settings import TrainingSettings
from segformer3d.tasks import Task

CONFIG, ABOUT = "config", "about"


def text_of(value: Task | TrainingSettings | PrivacySettings | Promise | LocalRule | None) -> str:
    """A setting as JSON text; nothing for None."""
    return "" if value is None else json.dumps(value.to_json())


def config_of(run: str, **values: Any) -> ConfigRecord:
    """The record "config" of a request."""
    return ConfigRecord({"contract": CONTRACT_VERSION, "run": run, **values})


def about_of(site: str, run: str, round_number: int, promise: Promise | None = None) -> ConfigRecord:
    """The record "about" of a reply."""
    who: dict[str, Any] = {"site": site, "run": run, "round": round_number}
    return ConfigRecord({"contract": CONTRACT_VERSION, **who, "promise": text_of(promise)})


def read_config(records: RecordDict, names: set[str], fields: Mapping[str, type]) -> dict[str, Any]:
    """The settings of a request that has exactly these records, without the version.

    Raises:
        ReplyError: it breaks the contract.
    """
    _check_version(records, CONFIG, "the coordinator")
    check_names(records, names, "the message")
    values = read_fields(record_of(records, CONFIG, ConfigRecord), {"contract": int, "run": str, **fields}, CONFIG)
    if not RUN_NAME.fullmatch(values["run"]):
        raise ReplyError("the run's id must be 1 to 64 letters, digits, - and _")
    return {name: value for name, value in values.items() if name != "contract"}


def read_about(records: RecordDict, names: set[str], more: tuple[str, ...] = ()) -> tuple[Any, ...]:
    """Site, run, round and promise of a reply that has exactly these records, and more texts.

    Raises:
        ReplyError: it breaks the contract.
    """
    _check_version(records, ABOUT, "the site")
    check_names(records, names, "the message")
    fields = {"contract": int, "site": str, "run": str, "round": int, "promise": str}
    fields |= dict.fromkeys(more, str)
    values = read_fields(record_of(records, ABOUT, ConfigRecord), fields, ABOUT)
    if not SITE_NAME.fullmatch(values["site"]):
        raise ReplyError("the site's name must be 1 to 40 letters, digits, - and _")
    promise = Promise.from_json(read_json("promise", values["promise"])) if values["promise"] else None
    return values["site"], values["run"], values["round"], promise, *(values[name] for name in more)


def _check_version(records: RecordDict, name: str, sender: str) -> None:
    """First of all, since another version may differ in anything else."""
    version = record_of(records, name, ConfigRecord).get("contract")
    if type(version) is not int or version != CONTRACT_VERSION:
        spoken = version if type(version) is int else "none"
        raise ReplyError(f"{sender} speaks version {spoken} of the message contract, and this end {CONTRACT_VERSION}")
