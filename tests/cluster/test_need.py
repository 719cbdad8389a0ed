"""What is refused before it could wait for ever, told from plain descriptions of nodes; addresses that cannot do."""

import socket

import pytest
import ray

from mskray.cluster import Need, check, room, session
from mskray.errors import UserError

THREE = [{"CPU": 3.0}] * 3
GPU = {"CPU": 8.0, "GPU": 4.0}
FEW_CPUS = {"CPU": 2.0, "GPU": 4.0}


@pytest.mark.parametrize(
    ("workers", "cpus", "gpus", "reading", "nodes"),
    [
        (3, 2, 0, 0.5, THREE),
        (9, 1, 0, 0.0, THREE),
        (8, 1, 0, 0.5, THREE),
        (4, 2, 1, 0.0, [GPU]),
        (4, 2, 1, 0.5, [GPU, {"CPU": 1.0}]),
        (2, 1, 1, 0.0, [FEW_CPUS]),
        (8, 1, 0.5, 0.0, [GPU]),
        (10, 0.1, 0, 0.0, [{"CPU": 1.0}]),
        (1, 0, 1, 0.0, [GPU]),
        (1, 2, 0, 0.0, [{"GPU": 1.0}, {"CPU": 2.0}]),
    ],
)
def test_what_fits(workers: int, cpus: float, gpus: float, reading: float, nodes: list[dict[str, float]]) -> None:
    check(Need("training", workers, cpus, gpus), nodes, reading)


@pytest.mark.parametrize(
    ("workers", "cpus", "gpus", "reading", "nodes", "message"),
    [
        (4, 2, 0, 0.5, THREE, r"4 workers with 2 CPU on one node and 0\.5 to read data, .* have room for 3: it would"),
        (
            5,
            1,
            1,
            0.5,
            [FEW_CPUS, FEW_CPUS, {"CPU": 64.0}],
            r"5 workers with 1 CPU and 1 GPU on one node .* room for 4",
        ),
        (2, 2, 0, 0.5, [{"CPU": 2.25}] * 2, "room for 1"),
        (4, 2, 0, 2.0, THREE, r"4 × 2 CPU and 2 to read data, the cluster has 9"),
        (2, 1, 1, 0.0, [{"CPU": 8.0, "GPU": 1.0}], r"2 × 1 GPU, the cluster has 1"),
        (1, 4, 0, 0.0, THREE, r"4 CPU in one place, the largest node has 3"),
        (1, 1, 0, 0.0, [], r"1 × 1 CPU, the cluster has 0"),
    ],
)
def test_what_is_refused(
    workers: int, cpus: float, gpus: float, reading: float, nodes: list[dict[str, float]], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        check(Need("training", workers, cpus, gpus), nodes, reading)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("http://10.0.0.1:8265", r"RAY_ADDRESS=http://10\.0\.0\.1:8265 is the address for `ray job submit`"),
        ("https://ray.example", "HOST:6379"),
        ("no address", "no Ray cluster answers at no address"),
    ],
)
def test_an_address_that_no_driver_can_join(address: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(UserError, match=message) as raised, session():
        pass
    assert "\n" not in str(raised.value)


def test_a_machine_too_busy_to_start_ray_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's own error for this is a bare Exception, told apart by its words; any other is passed on as it is."""
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    raised: list[Exception] = [
        Exception("The current node timed out during startup. This could happen because"),
        Exception("something else"),
    ]
    monkeypatch.setattr("ray.init", lambda **_: (_ for _ in ()).throw(raised.pop(0)))
    with pytest.raises(UserError, match="Ray did not start in time: the machine is too busy"), session():
        pass
    with pytest.raises(Exception, match="something else"), session():
        pass


def test_a_node_that_does_not_answer_has_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that was killed a moment ago, which Ray still lists."""
    with socket.create_server(("127.0.0.1", 0)) as there, socket.create_server(("127.0.0.1", 0)) as gone:
        nodes = [
            {
                "NodeID": "0" * 56,
                "Alive": True,
                "Resources": {"CPU": 4.0},
                "NodeManagerAddress": "127.0.0.1",
                "NodeManagerPort": each.getsockname()[1],
            }
            for each in (there, gone)
        ]
        monkeypatch.setattr(ray, "nodes", lambda: nodes)
        need = Need("training", 8, 1.0)
        assert room(need, sure=True) == 7
        gone.close()
        assert room(need, sure=True) == 3
        assert room(need) == 7
