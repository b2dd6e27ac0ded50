"""What can go wrong with a run on disk, each in a sentence that says what to do."""

from __future__ import annotations


class StoreError(Exception):
    """A run could not be created, opened, read or written; the message says what to do.

    Examples:
        >>> from foreshock.store import Run, StoreError
        >>> try:
        ...     Run.open("no/such/run")
        ... except StoreError as error:
        ...     print(type(error).__name__)
        NotARunError
    """

    # KeyError, a base of UnknownSeriesError, would show the sentence in quotation marks.
    __str__ = Exception.__str__


class FolderNotWritableError(StoreError):
    """The folder of a run, or the folder above it, cannot be written."""


class RunExistsError(StoreError):
    """A run is never overwritten."""


class NotARunError(StoreError):
    """The path holds no run."""


class NewerSchemaError(StoreError):
    """The run was written by a later Foreshock, whose tables this one does not know."""


class DamagedError(StoreError):
    """The database is truncated or corrupt."""


class ReadOnlyError(StoreError):
    """Something was written to a run that was opened for reading."""


class LockedError(StoreError):
    """Another process, or another `Run` of this one, writes the run."""


class ClosedError(StoreError):
    """The run was closed already."""


class ForkedError(StoreError):
    """A forked child used the writer of its parent, which would corrupt the database."""


class WriteError(StoreError):
    """SQLite could not commit; the rows are still held in memory."""


class UnknownSeriesError(StoreError, KeyError):
    """The run has no series of this name."""
