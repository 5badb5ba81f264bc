"""The errors that segfed raises on purpose, on one page.

Every one of them is a mistake that a user, a file or the network made, never a programming error: the command line
prints its text as one line (what, where, the rule, the remedy) and exits 1. Anything else keeps its traceback.
"""


class SegfedError(ValueError):
    """The root: something outside the program is wrong, and the text says what to do about it."""


class ConfigurationError(SegfedError):
    """An option or a settings file holds a value outside its rule."""


class DataError(SegfedError):
    """A dataset folder cannot be used as it is."""


class CaseError(DataError):
    """One case is damaged. It is set aside and counted; the others go on."""


class CheckpointError(SegfedError):
    """A checkpoint is truncated, of another architecture, or not a checkpoint."""


class ReplyError(SegfedError):
    """A site's reply breaks the message contract. It is set aside; the round goes on."""


class FederationError(SegfedError):
    """A federation cannot start or go on, for example because too few sites answer."""


class ExportError(SegfedError):
    """A model cannot be written in a format, or what was written does not compute what the model computes."""
