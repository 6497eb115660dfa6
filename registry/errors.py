"""What can go wrong in the registry. A docstring is the default message and says what to do about it."""

from __future__ import annotations


class RegistryError(Exception):
    """The adapter registry failed; see the log."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or "").strip().splitlines()[0])


class AdapterNotFound(RegistryError):
    """There is no adapter of that id; list the adapters and pick one."""


class AdapterAlreadyExists(RegistryError):
    """An adapter of that id is already published and adapters never change; choose another id."""


class AdapterRejected(RegistryError):
    """The adapter is not acceptable; the message names the check that it failed."""


class AdapterQuarantined(RegistryError):
    """The adapter's files do not have the digest that was published; publish the same files again to heal it."""


class AdapterArchived(RegistryError):
    """The adapter is archived and not served; restore it first."""


class TransitionRefused(RegistryError):
    """The adapter cannot make that change from where it stands; the message says where that is."""


class DatabaseError(RegistryError):
    """The database could not do what was asked; nothing of it was written."""


class DatabaseDamaged(DatabaseError):
    """The database file is damaged; restore the last snapshot."""


class DatabaseBusy(DatabaseError):
    """Another process held the database for too long; stop it and try again."""


class DatabaseUnwritable(DatabaseError):
    """The database cannot be written; free disk space and check the file's permissions."""


class DatabaseClosed(DatabaseError):
    """The database is closed."""


class SchemaTooNew(DatabaseError):
    """The database was written by a newer rune-tui; install that version, or use another RUNE_HOME."""
