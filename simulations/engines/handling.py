"""One message, one reply, as bytes: what a site's process does, and what a broken site is replaced by.

Messages and contexts cross process boundaries in Flower's own protobuf form. The same function serves the messages that
stay in this process, so that a site can never touch the server's arrays and every way to run gives the same bits.
"""

import logging
from uuid import uuid4

from flwr.app import Context, Error, Message, RecordDict
from flwr.app.user_config import UserConfig
from flwr.clientapp import ClientApp
from flwr.common.constant import NUM_PARTITIONS_KEY, PARTITION_ID_KEY, ErrorCode
from flwr.common.serde import context_from_proto, context_to_proto, message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Context as ProtoContext
from flwr.proto.message_pb2 import Message as ProtoMessage


def message_to_bytes(message: Message) -> bytes:
    """A message as protobuf; `message_from_bytes` is its inverse."""
    return bytes(message_to_proto(message).SerializeToString())


def message_from_bytes(data: bytes) -> Message:
    """The message that `message_to_bytes` wrote."""
    return message_from_proto(ProtoMessage.FromString(data))


def new_context(run_id: int, node_id: int, site: int, sites: int) -> bytes:
    """What site number `site` of `sites` knows before its first message, as protobuf."""
    node_config: UserConfig = {PARTITION_ID_KEY: site, NUM_PARTITIONS_KEY: sites}
    context = Context(run_id=run_id, node_id=node_id, node_config=node_config, state=RecordDict(), run_config={})
    return _context_to_bytes(context)


def answer(app: ClientApp, context: bytes, message: bytes) -> tuple[bytes, bytes]:
    """Let the app answer a message.

    Returns:
        The site's context after it, and the reply. If the app raises: the context as it was, and an error reply with
        the text of the exception, as Flower sends it; the traceback is logged.
    """
    request = message_from_bytes(message)
    site = context_from_proto(ProtoContext.FromString(context))
    try:
        reply = message_to_bytes(app(message=request, context=site))
        return _context_to_bytes(site), reply
    except Exception as error:  # whatever it is, the site's message is lost and the run goes on
        logging.getLogger("flwr").exception("the ClientApp raised an exception")
        reason = f"{type(error)}:<'{error}'>"
        return context, message_to_bytes(error_reply(request, ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason))


def error_reply(request: Message, code: int, reason: str) -> Message:
    """The reply of a site that has none."""
    return Message(Error(code=code, reason=reason), reply_to=request)


def give_id(message: Message) -> str:
    """Give a message an id, as Flower's own grids do; Flower has no public way."""
    message.metadata.__dict__["_message_id"] = message_id = str(uuid4())
    return message_id


def _context_to_bytes(context: Context) -> bytes:
    return bytes(context_to_proto(context).SerializeToString())
