"""The process at a site that answers messages: `python -m client.worker PORT SECRET_FILE`, kept running by `site join`.

Flower's own executor starts a process for every message, which imports whatever the coordinator's bundle names. This
one takes messages from the SuperNode in its place. It compares the bundle with the one that this version of segfed has,
and refuses any other; the ClientApp that answers is the installed one; and data, network and imports stay in memory
from message to message.
"""

import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode, SubStatus
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.constant import TaskType
from flwr.supercore.heartbeat import HeartbeatSender, make_task_heartbeat_fn_http
from flwr.supercore.inflatable.inflatable_utils import ObjectPullError, ObjectPushError
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.protobuf.client import ProtobufClientInterceptor
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message, push_task_output

from client.bundle import BundleError, check_bundle
from client.deployed import app, own_site
from client.failures import describe
from client.site_log import write_log
from client.trail import note_message
from client.unfinished import forget_unfinished, note_unfinished, read_unfinished
from segformer3d.addresses import LOOPBACK, Address
from segformer3d.errors import SegfedError
from segformer3d.files import StorageError

POLL_S = 0.5  # a request to the SuperNode takes both of them some 10 ms, day and night
PATIENCE_S = 2.0
# What talking to the SuperNode raises when it ends, or when it has dropped the message meanwhile.
_LOST = (httpx.HTTPError, RuntimeError, ObjectPullError, ObjectPushError)
_ACQUIRE = "/flwr.proto.Runtime/AcquireTask"


def run_worker(runtime: Address, secret: bytes) -> None:
    """Take messages from the SuperNode on this machine and answer them, for ever."""
    work, token = own_site().site.work, None
    _tell_of_predecessor(runtime, work)
    with _client(runtime, SuperExecAuthHttpInterceptor(master_secret=secret, protected_methods={_ACQUIRE})) as executor:
        while True:
            token = token or _next_token(executor)
            if token is None:
                time.sleep(POLL_S)
                continue
            try:
                token = _serve(executor, runtime, token)
            except _LOST as error:  # the coordinator will ask again
                write_log(work, f"a message was lost on the way to or from this site's SuperNode ({error})")
                forget_unfinished(work)
                token = None


def _next_token(executor: RuntimeHttpClient) -> str | None:
    """The right to work on the next message; None when there is none, or the SuperNode is starting."""
    try:
        answer = executor.AcquireTask(AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP]))
    except httpx.HTTPError:
        return None
    return answer.token or None


def _serve(executor: RuntimeHttpClient, runtime: Address, token: str) -> str | None:
    """Answer one message; the token of the next if this one was given up for it."""
    with _client(runtime, RuntimeTokenHttpInterceptor(token)) as client, _alive(client):
        with ThreadPoolExecutor(1) as puller:
            pulled = puller.submit(pull_task_input, client)
            newer = _newer_token(executor, pulled)
            if newer is not None:
                push_task_output(client, None, SubStatus.FAILED, "the message never came")
                client.close()  # ends the pulling
                return newer
        message, context, _, bundle = pulled.result()
        work = own_site().site.work
        with suppress(StorageError):  # a full disk: the message is answered all the same
            note_unfinished(work, token, message)
        push_message(client, _answer(app, message, context, bundle.content), context)
        push_task_output(client, context, SubStatus.COMPLETED, "")
        forget_unfinished(work)
    return None


def _tell_of_predecessor(runtime: Address, work: Path) -> None:
    """Answer in place of a worker that was killed over a message, so that the coordinator can ask again at once."""
    left = read_unfinished(work)
    if left is None:
        return
    write_log(
        work, "a message was left unanswered when the program that computes ended; the coordinator will ask again"
    )
    died = Message(Error(ErrorCode.CLIENT_APP_CRASHED, "its worker was killed"), reply_to=left.message)
    context = Context(left.message.metadata.run_id, left.message.metadata.dst_node_id, {}, RecordDict(), {})
    # A SuperNode that was started again, too, knows nothing of it.
    with _client(runtime, RuntimeTokenHttpInterceptor(left.token)) as client, suppress(*_LOST):
        push_message(client, died, context)
        push_task_output(client, None, SubStatus.FAILED, "the worker was killed")
    forget_unfinished(work)


def _newer_token(executor: RuntimeHttpClient, pulled: "Future[Any]") -> str | None:
    """Wait until a message is there, or until there is another one to work on.

    A SuperNode has one message at a time. If the run ends while one is on the way, its task stays and its content never
    comes; that there is a newer task says so. (On a slow link the content of a good message may take minutes.)
    """
    while not wait([pulled], timeout=PATIENCE_S).done:
        newer = _next_token(executor)
        if newer is not None:
            return newer
    return None


@contextmanager
def _alive(client: RuntimeHttpClient) -> Iterator[None]:
    """Heartbeats for the task; it counts as crashed without them."""
    heartbeat = HeartbeatSender(make_task_heartbeat_fn_http(client))
    heartbeat.start()
    try:
        yield
    finally:
        if heartbeat.is_running:
            heartbeat.stop()


def _answer(client_app: ClientApp, message: Message, context: Context, bundle: bytes) -> Message:
    """The installed app's answer, or what keeps it from answering. Nothing goes out that is not in the trail."""
    site = own_site().site
    try:
        note_message(site.work, "received", message)
        reply = _answer_for_bundle(client_app, message, context, bundle)
        note_message(site.work, "sent", reply)
    except SegfedError as error:  # a full disk, or a trail that was tampered with
        write_log(site.work, str(error))
        return Message(describe(site.name, message.metadata.message_type, error).encode(), reply_to=message)
    return reply


def _answer_for_bundle(client_app: ClientApp, message: Message, context: Context, bundle: bytes) -> Message:
    try:
        check_bundle(bundle)
    except BundleError as error:
        write_log(own_site().site.work, f"REFUSED: {error}")
        return Message(Error(ErrorCode.INVALID_FAB, "the site refuses this bundle"), reply_to=message)
    return client_app(message, context)


@contextmanager
def _client(runtime: Address, credentials: ProtobufClientInterceptor) -> Iterator[RuntimeHttpClient]:
    version = RuntimeVersionHttpInterceptor(component_name="SuperExec")
    client = RuntimeHttpClient.from_server_address(str(runtime), True, None, [version, credentials])
    try:
        yield client
    finally:
        client.close()


def main(port: int, secret: Path) -> None:
    """See the module."""
    run_worker(Address(LOOPBACK, port), secret.read_bytes())


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
