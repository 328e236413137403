"""The error tree. A class's docstring is its message when none is given; ``exit_code`` is the command line's.

- FeaturectlError (2)
  - UsageError (2)
    - InvalidEntityId
    - InvalidTime
    - NotFound
    - InputFileError
    - OutputFileError
  - ConfigError (2)
    - RepositoryNotFound
    - UnsetVariable
  - DefinitionError (2)
  - NotAllowed (2)
  - DatabaseError (3)
    - DatabaseUnreachable
    - SchemaMissing (2)
    - PermissionDenied (2)
    - StatementTimeout
    - ReadTimeout
  - LockHeld (4)
  - Skipped (0)
  - Findings (1)
  - FeastUnavailable (3)
  - PartlyDone (5)
  - Degraded (6)
  - Interrupted (130)
"""

from __future__ import annotations

from collections.abc import Iterable


def encodable(text: str) -> str:
    """Return a text as UTF-8 can hold it: with ``\\udce9`` for a byte of a file's name that it can't.

    Logs and the database take nothing else, and JSON means that byte by it.
    """
    return text.encode("utf-8", "backslashreplace").decode()


class FeaturectlError(Exception):
    """Something went wrong."""

    exit_code = 2

    def __init__(self, message: str | None = None) -> None:
        super().__init__(encodable(message or (type(self).__doc__ or "").strip()))


class UsageError(FeaturectlError):
    """The command's words do not fit together."""


class InvalidEntityId(UsageError):
    """An entity id is `<SYMBOL>_<timeframe>`, for example BTCUSDT_1h."""


class InvalidTime(UsageError):
    """A time is ISO 8601 or relative to now: 2024-05-01T12:00:00Z, -7d, now."""


class NotFound(UsageError):
    """The name is not defined in this repository."""

    @classmethod
    def of(cls, kind: str, name: str, known: Iterable[str], hint: str = "run `featurectl apply`") -> NotFound:
        names = sorted(known)
        listed = ", ".join(names[:12]) + (f", … ({len(names)} in all)" if len(names) > 12 else "") if names else "none"
        plural = f"{kind[:-1]}ies" if kind.endswith("y") else f"{kind}s"
        return cls(f"{kind} '{name}' not found; {plural}: {listed}; {hint}")


class InputFileError(UsageError):
    """The input file can't be used."""


class OutputFileError(UsageError):
    """The output file can't be written."""


class ConfigError(FeaturectlError):
    """feature_store.yaml can't be used."""


class RepositoryNotFound(ConfigError):
    """No feature_store.yaml here or above; run `featurectl init`, or name the repository with -C DIR."""


class UnsetVariable(ConfigError):
    """An environment variable that feature_store.yaml names is not set."""


class DefinitionError(FeaturectlError):
    """The definitions contradict themselves."""


class NotAllowed(FeaturectlError):
    """The change would lose data and was not allowed."""


class DatabaseError(FeaturectlError):
    """The database refused a statement."""

    exit_code = 3


class DatabaseUnreachable(DatabaseError):
    """The database can't be reached."""


class LoginRefused(DatabaseUnreachable):
    """The database answers, and lets nobody in with this user, password and name of a database."""


class SchemaMissing(DatabaseError):
    """The database lacks featurectl's tables; run `featurectl apply`."""

    exit_code = 2


class PermissionDenied(DatabaseError):
    """The database role may not do this."""

    exit_code = 2


class StatementTimeout(DatabaseError):
    """A statement took longer than the statement timeout."""


class ReadTimeout(DatabaseError):
    """No answer came in the time that was given for it."""


class Findings(FeaturectlError):
    """What was looked at is not as it should be."""

    exit_code = 1


class FeastUnavailable(FeaturectlError):
    """Feast can't answer."""

    exit_code = 3


class LockHeld(FeaturectlError):
    """Another run holds the lock."""

    exit_code = 4


class Skipped(FeaturectlError):
    """Another run holds the lock, and is left to it."""

    exit_code = 0


class PartlyDone(FeaturectlError):
    """Some of the work is done, some is not."""

    exit_code = 5


class Degraded(FeaturectlError):
    """The answer came by another path than the first, and --strict was given."""

    exit_code = 6


class Interrupted(FeaturectlError):
    """Interrupted."""

    exit_code = 130


class Terminated(KeyboardInterrupt):
    """The process was told to end by SIGTERM; what Ctrl-C rolls back is rolled back."""

    exit_code = 143
