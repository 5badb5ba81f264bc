"""How any process makes the ClientApp: a function's name and plain arguments, so no code has to travel."""

import functools
import importlib
import json
from dataclasses import dataclass
from typing import Any

from flwr.app import Context, Message
from flwr.clientapp import ClientApp


@dataclass(frozen=True)
class ClientSource:
    """An importable function that returns a ClientApp, and its arguments.

    Attributes:
        factory: "package.module:function".
        arguments: the function's keyword arguments, as the text of one JSON object.

    Raises:
        ValueError: `factory` has another form, or `arguments` is not a JSON object.
    """

    factory: str
    arguments: str = "{}"

    def __post_init__(self) -> None:
        module, colon, function = self.factory.partition(":")
        if not (module and colon and function.isidentifier()):
            raise ValueError(f"factory must have the form 'package.module:function', got {self.factory!r}")
        if not isinstance(json.loads(self.arguments), dict):
            raise ValueError(f"arguments must be a JSON object, got {self.arguments!r}")  # noqa: TRY004 - of the text

    @classmethod
    def of(cls, factory: str, **arguments: Any) -> "ClientSource":
        """A source from plain values (numbers, text, lists and dicts of them).

        Raises:
            TypeError: an argument is not a plain value.
        """
        return cls(factory, json.dumps(arguments))

    def make(self) -> ClientApp:
        """Import the function and call it.

        Raises:
            TypeError: it returns something other than a ClientApp.
            Exception: whatever importing or calling it raises.
        """
        module, _, function = self.factory.partition(":")
        app = getattr(importlib.import_module(module), function)(**json.loads(self.arguments))
        if not isinstance(app, ClientApp):
            raise TypeError(f"{self.factory} must return a ClientApp, got {type(app).__name__}")
        return app


class SourcedClientApp(ClientApp):
    """A ClientApp that travels as its source alone and is made, once, in the process that calls it."""

    def __init__(self, source: ClientSource) -> None:
        super().__init__()
        self._source = source

    def __call__(self, message: Message, context: Context) -> Message:
        """The made app's reply."""
        return _make_once(self._source)(message, context)


@functools.cache
def _make_once(source: ClientSource) -> ClientApp:
    return source.make()
