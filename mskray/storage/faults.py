"""Which errors of an object store pass by themselves, and what the others mean to a user, in one line."""

import logging
import re
from collections.abc import Callable
from typing import TypeVar

from botocore import exceptions as boto
from botocore.parsers import ResponseParserError
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_before_delay, wait_random_exponential

from mskray.errors import Fault

log = logging.getLogger(__name__)

# botocore and Arrow retry single requests; this is the time after which a whole operation is given up. A store that
# restarts or a switch that fails over is back within it; a wrong address should not hold a cluster for longer.
RETRY_SECONDS = 120.0
# And after which a check before work begins gives up, where the store answers that it is busy.
BUSY_SECONDS = 20.0

THROTTLING = {
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "RequestLimitExceeded",
    "TooManyRequests",
    "BandwidthLimitExceeded",
}
# NoSuchUpload: a multipart upload whose completion was answered into a cut connection; the next attempt starts anew.
PASSING = THROTTLING | {"InternalError", "ServiceUnavailable", "RequestTimeout", "OperationAborted", "NoSuchUpload"}

# Arrow's errors are OSErrors that differ in their text alone. Its S3 client retries the named ones itself, and answers
# without an S3 message; an error code it does not know (MinIO's SlowDownRead, Ceph's Busy) it never retries.
ARROW = re.compile(
    r"AWS Error (NETWORK_CONNECTION|SLOW_DOWN|SERVICE_UNAVAILABLE|INTERNAL_FAILURE|REQUEST_TIMEOUT|THROTTLING)"
    r"|AWS Error UNKNOWN \(HTTP status (429|500|502|503|504)\)"
)
# What boto3 raises for a request that failed.
FAILURES = (boto.ClientError, boto.BotoCoreError, ResponseParserError, RecursionError)

T = TypeVar("T")


def code_and_status(error: boto.ClientError) -> tuple[str, int]:
    """The store's error code (for answers without a body, the status as text) and the HTTP status."""
    return (
        str(error.response.get("Error", {}).get("Code", "")),
        int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)),
    )


def is_transient(error: BaseException) -> bool:
    """Whether the same request may succeed a little later."""
    if isinstance(error, boto.ClientError):
        code, status = code_and_status(error)
        return code in PASSING or status in (429, 500, 502, 503, 504)
    if isinstance(error, boto.SSLError):
        return False
    if isinstance(error, OSError) and ARROW.search(str(error)):
        return True
    return isinstance(
        error,
        boto.HTTPClientError | boto.ConnectionError | boto.IncompleteReadError | boto.FlexibleChecksumError,
    )


def is_busy(error: BaseException) -> bool:
    """Whether the store answered, but not now."""
    return is_transient(error) and not isinstance(error, boto.BotoCoreError)


def retried(
    what: str,
    operation: Callable[[], T],
    seconds: float | None = None,
    passing: Callable[[BaseException], bool] = is_transient,
) -> T:
    """Run an idempotent operation until it succeeds, fails with what is not `passing`, or `seconds` (RETRY_SECONDS if
    not given) have passed.

    Waits are drawn uniformly from [0, 0.5 · 2ⁿ] seconds ("full jitter"), so that a thousand workers that failed
    together do not return together. Raises what the last attempt raised.
    """

    def tell(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        wait = state.next_action.sleep if state.next_action else 0.0
        log.warning("%s failed (%s); trying again in %.1f s", what, error, wait)

    return Retrying(
        retry=retry_if_exception(passing),
        wait=wait_random_exponential(multiplier=0.5, max=20),
        stop=stop_before_delay(RETRY_SECONDS if seconds is None else seconds),
        before_sleep=tell,
        reraise=True,
    )(operation)


def explain(error: Exception, what: str, uri: str, endpoint: str, source: str) -> Fault:
    """The line for the user: `what` ("read", "write", "list"…) was tried at `uri`; credentials came from `source`."""
    bucket = uri.removeprefix("s3://").partition("/")[0]
    if isinstance(error, boto.ClientError):
        return Fault(_explain_answer(error, what, uri, bucket, endpoint, source))
    if isinstance(error, ResponseParserError | RecursionError):  # a redirect without end recurses in botocore
        return Fault(_no_s3(endpoint, uri, "no S3 message"))
    if isinstance(error, boto.SSLError):
        return Fault(
            f"TLS with {endpoint} failed ({_reason(error)}): set AWS_CA_BUNDLE to the store's certificate authority,"
            " or write http:// in AWS_ENDPOINT_URL if the store has no TLS"
        )
    if isinstance(error, boto.IncompleteReadError | boto.FlexibleChecksumError | boto.ResponseStreamingError):
        return Fault(f"{uri} arrived incomplete or damaged each time from {endpoint}: check the network")
    if isinstance(error, boto.HTTPClientError | boto.ConnectionError):
        return Fault(
            f"no answer from {endpoint} for {uri} ({_reason(error)}): check that the store runs, the network,"
            " and AWS_ENDPOINT_URL"
        )
    return Fault(f"cannot {what} {uri}: {error}; check the AWS variables and ~/.aws/config")


def _explain_answer(error: boto.ClientError, what: str, uri: str, bucket: str, endpoint: str, source: str) -> str:
    code, status = code_and_status(error)
    if is_transient(error):
        return f"{endpoint} could not {what} {uri} for now ({code}, HTTP {status}): try again later or check the store"
    if code.isdigit() and not error.operation_name.startswith("Head"):  # only HEAD has no message
        return _no_s3(endpoint, uri, f"HTTP {status}")
    if code == "NoSuchBucket":
        return f"bucket {bucket} does not exist at {endpoint}: create it, or correct {uri}"
    if status == 404:
        return f"there is nothing at {uri} ({endpoint}): check the path"
    if code == "InvalidAccessKeyId":
        return f"{endpoint} does not know the access key from {source}: for {uri} set AWS_ACCESS_KEY_ID or AWS_PROFILE"
    if code == "SignatureDoesNotMatch":
        return (
            f"the secret key from {source} is wrong for {endpoint}: for {uri} set AWS_SECRET_ACCESS_KEY or AWS_PROFILE"
        )
    if code in ("ExpiredToken", "ExpiredTokenException", "InvalidToken", "TokenRefreshRequired"):
        return (
            f"the session from {source} is no longer valid for {uri}: log in again (aws sso login) or renew its token"
        )
    if code == "RequestTimeTooSkewed":
        return f"{endpoint} refuses {uri} because this machine's clock is off: set the clock"
    if code in ("PermanentRedirect", "AuthorizationHeaderMalformed"):
        return f"bucket {bucket} is in another region of {endpoint}: for {uri} set AWS_DEFAULT_REGION to it"
    if status == 403:
        return (
            f"no permission to {what} {uri} at {endpoint} with the credentials from {source}: ask for it, or use others"
        )
    message = error.response.get("Error", {}).get("Message", "")
    return f"{endpoint} refused to {what} {uri}: {code} {message} (HTTP {status}); check the path and the store"


def _no_s3(endpoint: str, uri: str, answer: str) -> str:
    return f"{endpoint} does not answer like an S3 store ({answer}): set AWS_ENDPOINT_URL to one that has {uri}"


def _reason(error: Exception) -> str:
    """The core of botocore's nested messages, such as "Connection refused"."""
    if isinstance(error, boto.ConnectTimeoutError | boto.ReadTimeoutError):
        return "timed out"
    if isinstance(error, boto.ConnectionClosedError):
        return "connection closed"
    cause = error.kwargs.get("error", error) if isinstance(error, boto.BotoCoreError) else error
    return str(cause).rpartition("] ")[2].partition(" (_ssl")[0].strip("()'\" ") or type(error).__name__
