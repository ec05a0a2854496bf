"""Errors that a user can act on, under one base class.

Entry points print the message of a `UserError` in one line; any other exception is a bug and keeps
its trace. A message says what failed, what was given, what was expected and what to do next.
"""


class UserError(Exception):
    """An error that a user can act on."""


class InputError(UserError, ValueError):
    """A setting, an argument or a stored value is not what was expected."""


class MissingPackageError(UserError, ImportError):
    """An optional package that a setting needs is not installed."""


class DataError(UserError):
    """Data are missing, damaged or cannot be reached; names the URL, and the subject or key."""


class BadSampleError(DataError):
    """A sample is missing, damaged or not finite; names shard, key and member."""


class CheckpointError(UserError):
    """A checkpoint cannot be written, is not whole, or does not fit; lists the differences."""


class NonFiniteError(UserError):
    """The loss or the gradient of a batch is NaN or infinite; names the step and the samples."""


class DivergedError(UserError):
    """Ranks hold different weights; names the step, the ranks and the first such parameters."""


class MiscountError(UserError):
    """An epoch did not deliver every sample once; names samples delivered too often or not."""


class PreemptedError(UserError):
    """A run was told to end, and has saved a checkpoint of the step that it had reached."""


class WorkersLostError(UserError):
    """Ray workers died, and the run may not restart them."""
