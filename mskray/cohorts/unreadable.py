"""A file that cannot be read, told from a store that cannot: the first is one row's matter, the second ends the run."""

from dataclasses import dataclass

from botocore.exceptions import ClientError

from mskray.errors import UserError
from mskray.storage import Location
from mskray.storage.faults import code_and_status


@dataclass(frozen=True)
class Unreadable:
    """A file that was there when it was listed and cannot be read.

    Args:
        passing: whether it may be readable later without having changed.
    """

    reason: str
    passing: bool = True


def unreadable(error: UserError | OSError, file: Location, root: Location) -> Unreadable:
    """Say why a file below `root` cannot be read, given what its reading raised.

    Raises:
        UserError: the store is at fault: it does not answer, or refuses its listing too.
    """
    cause = error.__cause__ if isinstance(error, UserError) else error
    if _forbidden(cause):
        # Keys that have expired are refused in the same words: then the store shows nothing at all.
        if file.uri.startswith("s3:"):
            root.is_dir()
        return Unreadable("no permission to read the file")
    if not file.is_file() and cause is not None:
        return Unreadable("the file is not there, or no longer")
    if cause is None:
        return Unreadable("too large, or not a regular file", passing=False)
    if isinstance(error, UserError):
        raise error
    raise UserError(f"cannot read {file}: {error}; check the store and run again") from error


def _forbidden(cause: BaseException | None) -> bool:
    if isinstance(cause, ClientError):
        return code_and_status(cause)[1] == 403
    # Arrow's errors differ in their text alone.
    return isinstance(cause, PermissionError) or (isinstance(cause, OSError) and "ACCESS_DENIED" in str(cause))
