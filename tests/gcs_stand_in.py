"""What answers like the head of a Ray cluster, over real gRPC: its versions, its nodes, its token, its TLS.

A real head takes twenty seconds to start, and one of another version cannot be had.
"""

import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
from ray.core.generated import gcs_pb2, gcs_service_pb2, gcs_service_pb2_grpc


@contextmanager
def head(
    metadata: dict[str, str], token: str | None, nodes: Sequence[str] = (), pem: Path | None = None
) -> Iterator[str]:
    """A head on loopback; yields HOST:PORT.

    Args:
        token: None for one that asks for none.
        pem: certificate and key, which are also the authority of its clients.
    """

    def check(context: Any) -> None:
        given = dict(context.invocation_metadata()).get("authorization")
        if token is not None and given != f"Bearer {token}":
            context.abort(
                grpc.StatusCode.UNAUTHENTICATED, "InvalidAuthToken: Authentication token is missing or incorrect"
            )

    class Values(gcs_service_pb2_grpc.InternalKVGcsServiceServicer):
        def InternalKVGet(self, request: Any, context: Any) -> Any:
            check(context)
            assert (request.namespace, request.key) == (b"cluster", b"CLUSTER_METADATA")
            return gcs_service_pb2.InternalKVGetReply(value=json.dumps(metadata).encode())

    class Nodes(gcs_service_pb2_grpc.NodeInfoGcsServiceServicer):
        def GetAllNodeInfo(self, request: Any, context: Any) -> Any:
            check(context)
            told = [gcs_pb2.GcsNodeInfo(node_id=bytes.fromhex(each)) for each in nodes]
            return gcs_service_pb2.GetAllNodeInfoReply(node_info_list=told)

    server = grpc.server(ThreadPoolExecutor(2))
    gcs_service_pb2_grpc.add_InternalKVGcsServiceServicer_to_server(Values(), server)
    gcs_service_pb2_grpc.add_NodeInfoGcsServiceServicer_to_server(Nodes(), server)
    if pem is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        both = pem.read_bytes()
        credentials = grpc.ssl_server_credentials([(both, both)], root_certificates=both, require_client_auth=True)
        port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()
