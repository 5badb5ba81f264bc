"""One message, one reply: what a site's process does, and what the reply of a broken site is replaced by.

The same function serves the messages that stay in this process: a site can never touch the server's arrays, and every
way to run gives the same bits.
"""

import logging
from uuid import uuid4

from flwr.app import Context, Error, Message, RecordDict
from flwr.app.user_config import UserConfig
from flwr.clientapp import ClientApp
from flwr.common.constant import NUM_PARTITIONS_KEY, PARTITION_ID_KEY, ErrorCode

from simulations.engines.parcels import Parcel, pack_context, pack_message, unpack_context, unpack_message


def new_context(run_id: int, node_id: int, site: int, sites: int) -> Parcel:
    """What site number `site` of `sites` knows before its first message."""
    node_config: UserConfig = {PARTITION_ID_KEY: site, NUM_PARTITIONS_KEY: sites}
    return pack_context(
        Context(run_id=run_id, node_id=node_id, node_config=node_config, state=RecordDict(), run_config={})
    )


def answer(app: ClientApp, context: Parcel, message: Parcel) -> tuple[Parcel, Parcel]:
    """Let the app answer a message.

    Returns:
        The site's context after it, and the reply. If the app raises: the context as it was, and an error reply with
        the text of the exception, as Flower sends it; the traceback is logged.
    """
    request, site = unpack_message(message), unpack_context(context)
    try:
        reply = pack_message(app(message=request, context=site))
        return pack_context(site), reply
    except Exception as error:  # whatever it is, the site's message is lost and the run goes on
        logging.getLogger("flwr").exception("the ClientApp raised an exception")
        reason = f"{type(error)}:<'{error}'>"
        return context, pack_message(error_reply(request, ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason))


def error_reply(request: Message, code: int, reason: str) -> Message:
    """The reply of a site that has none."""
    return Message(Error(code=code, reason=reason), reply_to=request)


def give_id(message: Message) -> str:
    """Give a message an id, as Flower's own grids do; Flower has no public way."""
    message.metadata.__dict__["_message_id"] = message_id = str(uuid4())
    return message_id
