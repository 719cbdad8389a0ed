"""What the AWS variables and config files say, asked of boto3 once, and an Arrow filesystem that says the same.

boto3's chain alone decides: AWS_ENDPOINT_URL[_S3], AWS_PROFILE, ~/.aws/config with endpoint_url and services sections,
AWS_CA_BUNDLE, single sign-on, assumed, container and instance roles. Arrow has a chain of its own that knows fewer of
these; it gets boto3's result instead.
"""

import os
from functools import lru_cache
from threading import Lock
from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore import exceptions as boto
from botocore.config import Config
from botocore.session import Session
from botocore.utils import get_environ_proxies
from pyarrow.fs import AwsStandardS3RetryStrategy, FileSystem, S3FileSystem

from mskray.errors import UserError
from mskray.storage.faults import is_transient

# Seconds. A store under load may pause for several seconds; one that sends nothing for 30 is gone.
CONNECT_TIMEOUT, READ_TIMEOUT = 10, 30
PROBE_CONNECT_TIMEOUT, PROBE_READ_TIMEOUT = 3, 5
# Attempts a request, first included: botocore's back-off adds up to about 7 s, Arrow's to about 30 s (measured).
BOTO_ATTEMPTS, ARROW_ATTEMPTS = 4, 8

# Where credentials came from, in botocore's words and in a user's.
SOURCES = {"env": "the environment", "shared-credentials-file": "~/.aws/credentials", "config-file": "~/.aws/config"}


def connect() -> "Connection":
    """This process's connection. A changed AWS variable or a fork makes a new one."""
    variables = sorted(item for item in os.environ.items() if item[0] == "HOME" or item[0].startswith("AWS_"))
    return _connect(os.getpid(), tuple(variables))


@lru_cache(maxsize=4)
def _connect(pid: int, variables: tuple[tuple[str, str], ...]) -> "Connection":
    return Connection()


class Connection:
    """One process's view of the object store. Thread-safe; raises UserError if the configuration is unusable."""

    def __init__(self) -> None:
        try:
            self._session = Session()
            session = boto3.Session(botocore_session=self._session)
            self._credentials = session.get_credentials()
            if self._credentials is None:
                raise UserError(
                    "no credentials for S3: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
                )
            region = session.region_name or os.environ.get("AWS_REGION") or "us-east-1"
            self._region = region
            self._make_client = lambda config: session.client("s3", region_name=region, config=config)
            self.client = self._make_client(_config(CONNECT_TIMEOUT, READ_TIMEOUT, BOTO_ATTEMPTS))
            default = self._make_client(Config(ignore_configured_endpoint_urls=True))
        except (boto.BotoCoreError, ValueError) as error:  # ValueError: an endpoint that is no URL
            raise UserError(
                f"the S3 configuration is unusable: {error}; check the AWS variables and ~/.aws/config"
            ) from error
        self.endpoint = str(self.client.meta.endpoint_url)
        self._is_aws = self.endpoint == default.meta.endpoint_url
        self.source = SOURCES.get(self._credentials.method, self._credentials.method)
        self._filesystems: dict[str, tuple[Any, FileSystem]] = {}
        self._regions: dict[str, str] = {}
        self._lock = Lock()

    def filesystem(self, bucket: str) -> FileSystem:
        """Arrow's filesystem for a bucket, rebuilt when boto3 has renewed temporary credentials.

        botocore renews them in the last quarter of an hour before they expire, so what is opened through this
        filesystem has at least ten minutes to finish.
        """
        keys, region = self._keys(), self._bucket_region(bucket)
        with self._lock:
            known = self._filesystems.get(region)
            if known is None or known[0] != keys:
                built = self._arrow(keys, region, CONNECT_TIMEOUT, READ_TIMEOUT, ARROW_ATTEMPTS)
                known = self._filesystems[region] = (keys, built)
        return known[1]

    def probe_client(self) -> Any:
        """A boto3 client that gives up within seconds."""
        return self._make_client(_config(PROBE_CONNECT_TIMEOUT, PROBE_READ_TIMEOUT, 2))

    def probe_filesystem(self, bucket: str) -> FileSystem:
        """An Arrow filesystem that gives up within seconds."""
        return self._arrow(self._keys(), self._bucket_region(bucket), PROBE_CONNECT_TIMEOUT, PROBE_READ_TIMEOUT, 2)

    def _keys(self) -> Any:
        try:
            return self._credentials.get_frozen_credentials()
        except boto.BotoCoreError as error:
            raise UserError(
                f"the S3 credentials from {self.source} cannot be renewed: {error}; log in again"
            ) from error

    def _bucket_region(self, bucket: str) -> str:
        """AWS answers a request for a bucket of another region with a redirect that Arrow does not follow."""
        if bucket not in self._regions:
            try:
                headers = self.client.head_bucket(Bucket=bucket)["ResponseMetadata"]["HTTPHeaders"]
            except boto.ClientError as error:
                if is_transient(error):
                    return self._region
                headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
            except boto.BotoCoreError:
                return self._region  # whatever is wrong, the request itself will say it better
            self._regions[bucket] = headers.get("x-amz-bucket-region") or self._region
        return self._regions[bucket]

    def _arrow(self, keys: Any, region: str, connect: float, read: float, attempts: int) -> FileSystem:
        """`read` is the time without a single byte, on which Arrow closes the connection and tries again."""
        address = urlsplit(self.endpoint)
        elsewhere = {} if self._is_aws else {"endpoint_override": address.netloc, "scheme": address.scheme}
        authority = self._session.get_config_variable("ca_bundle")
        proxy = get_environ_proxies(self.endpoint).get(address.scheme)
        style = (self.client.meta.config.s3 or {}).get("addressing_style")
        return S3FileSystem(
            access_key=keys.access_key,
            secret_key=keys.secret_key,
            session_token=keys.token,
            region=region,
            connect_timeout=connect,
            request_timeout=read,
            retry_strategy=AwsStandardS3RetryStrategy(max_attempts=attempts),
            force_virtual_addressing=style == "virtual",
            proxy_options=proxy,
            tls_ca_file_path=authority if isinstance(authority, str) else None,
            **elsewhere,
        )


def _config(connect: float, read: float, attempts: int) -> Config:
    return Config(
        connect_timeout=connect,
        read_timeout=read,
        retries={"mode": "standard", "total_max_attempts": attempts},
        max_pool_connections=32,
    )
