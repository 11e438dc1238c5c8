# SPDX-License-Identifier: Apache-2.0
"""Errors that the user can do something about.

Each message is one line: what was given, what is allowed, what to do. The command line prints it without a
traceback and exits with the class's `exit_code`; any other exception is a bug and keeps its traceback.
"""


class UserError(Exception):
    """Bad usage or bad input."""

    exit_code = 2


class BackendUnavailable(UserError):
    """The chosen backend cannot run on this machine."""

    exit_code = 3


class TrainingDiverged(UserError):
    """The loss or a gradient is no longer finite; the last good state is saved."""

    exit_code = 4


class StorageError(UserError):
    """The disk is full or not writable; the last good state is kept."""

    exit_code = 5


class Interrupted(UserError):
    """Ctrl-C, SIGTERM or SIGHUP; the state is saved."""

    exit_code = 130
