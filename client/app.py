"""The Flower ClientApp of a site: messages in, replies out, and not a word too many when something fails.

The same app serves every engine. How it finds its site is given to it: a simulated site looks at
`context.node_config["partition-id"]`, a deployed one reads its own site file.
"""

import logging
import traceback
from collections.abc import Callable
from functools import partial

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from client.contract import EVALUATE, PREPARE, TRAIN, EvaluateRequest, PrepareRequest, TrainRequest
from client.exchange.at_site import receive_model
from client.failures import describe
from client.outbox import Outbox
from client.phases import evaluate_site, prepare_site, train_site
from client.records import digest_of
from client.site import SiteSettings
from client.site_log import write_log
from segformer3d.errors import SegfedError

FindSite = Callable[[Context], SiteSettings]
Handler = Callable[[SiteSettings, RecordDict], RecordDict]


def make_client_app(find_site: FindSite, *, keep_replies: bool = False) -> ClientApp:
    """A ClientApp that answers `query`, `train` and `evaluate` messages for the site that `find_site` names.

    With `keep_replies`, and in a private run, what a round has cost is put on disk before it is sent, see
    `client.outbox`.
    """
    train = partial(_train, keep_replies=keep_replies)
    app = ClientApp()

    @app.query()
    def prepare(message: Message, context: Context) -> Message:
        return _answer(message, context, find_site, PREPARE, _prepare)

    @app.train()
    def answer_train(message: Message, context: Context) -> Message:
        return _answer(message, context, find_site, TRAIN, train)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return _answer(message, context, find_site, EVALUATE, _evaluate)

    return app


def _prepare(site: SiteSettings, records: RecordDict) -> RecordDict:
    return prepare_site(site, PrepareRequest.decode(records)).encode()


def _train(site: SiteSettings, records: RecordDict, *, keep_replies: bool) -> RecordDict:
    request = TrainRequest.decode(records, partial(receive_model, site))
    if not keep_replies and request.privacy is None:
        return train_site(site, request, "").encode()
    # What is asked is the same whether the model came as a whole or as a change.
    question = digest_of(records if request.exchange.plain else request.encode())
    outbox = Outbox(site.work / request.run)
    kept = outbox.find(question)
    if kept is not None:
        write_log(site.work, f"run {request.run}: round {request.round} was done before, its reply is sent again")
        return kept
    reply = train_site(site, request, question).encode()
    outbox.keep(question, reply)
    return reply


def _evaluate(site: SiteSettings, records: RecordDict) -> RecordDict:
    return evaluate_site(site, EvaluateRequest.decode(records, partial(receive_model, site))).encode()


def _answer(message: Message, context: Context, find_site: FindSite, phase: str, handle: Handler) -> Message:
    """The handler's reply, or what may be said about its failure. Nothing is raised: Flower would send its text."""
    site = None
    try:
        site = find_site(context)
        return Message(handle(site, message.content), reply_to=message)
    except Exception as error:  # the one place that turns any exception into an error reply
        failure = describe(site.name if site else "a site", phase, error)
        if site is not None:
            write_log(site.work, f"{failure}\n{_details(error)}")
        else:  # without settings there is no folder for the site's own log
            logging.getLogger(__name__).exception("%s", failure)
        return Message(failure.encode(), reply_to=message)


def _details(error: Exception) -> str:
    """For the site's log: a user's mistake in one line, anything else with its traceback."""
    return str(error) if isinstance(error, SegfedError) else "".join(traceback.format_exception(error)).rstrip()
