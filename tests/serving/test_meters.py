"""Figures for Prometheus: documents of several nodes become one that a scraper can read."""

from prometheus_client.parser import text_string_to_metric_families

from mskray.serving.meters import merged

NODE = """# HELP ray_mskray_request_seconds Time to answer a request.
# TYPE ray_mskray_request_seconds histogram
ray_mskray_request_seconds_bucket{NODE,route="/v1/studies",status="200",le="0.1"} 3.0
ray_mskray_request_seconds_bucket{NODE,route="/v1/studies",status="200",le="+Inf"} 4.0
ray_mskray_request_seconds_count{NODE,route="/v1/studies",status="200"} 4.0
ray_mskray_request_seconds_sum{NODE,route="/v1/studies",status="200"} 0.7
# HELP ray_node_cpu Of the whole machine.
# TYPE ray_node_cpu gauge
ray_node_cpu{NODE} 2.0
# HELP ray_serve_num_http_requests_total Requests.
# TYPE ray_serve_num_http_requests_total counter
ray_serve_num_http_requests_total{NODE} 5.0
"""


def test_documents_of_nodes_are_joined() -> None:
    text = merged([NODE.replace("NODE", f'NodeAddress="10.0.0.{node}"') for node in (1, 2)]).decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert set(families) == {"ray_mskray_request_seconds", "ray_serve_num_http_requests"}
    assert text.count("# TYPE ray_mskray_request_seconds ") == 1
    counts = [each for each in families["ray_mskray_request_seconds"].samples if each.name.endswith("_count")]
    assert [(each.labels["NodeAddress"], each.value) for each in counts] == [("10.0.0.1", 4.0), ("10.0.0.2", 4.0)]


def test_no_exporter_is_an_empty_document() -> None:
    assert merged([]) == b""
