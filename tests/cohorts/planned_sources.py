"""Synthetic listings for tests of planning, with everything that a listing may hold, and digests of what they become.

The digests in `EXPECTED` are those of the planner that held the whole listing in memory: the one that spills to disk
must make the same shards, rows and quarantine.
"""

import hashlib
import random
from collections.abc import Iterator

from mskray.cohorts.plan import Plan, make_plan
from mskray.cohorts.schema import ABNORMALITY, Task
from mskray.cohorts.sources import Finding, Item, Rejected
from mskray.imaging.deidentify import Pseudonymiser

KEYS = Pseudonymiser(b"a key for these tests only")
GRADE = Task(name="grade", classes=("a", "b", "c"), ordinal=True)
PARTS = ("HAND", "WRIST", "KNEE", "SPINE", "UNKNOWN")
SPLITS = ("train", "validation", "test")


def listing(
    patients: int,
    seed: int = 0,
    own: float = 0.0,
    doubled: float = 0.0,
    rejected: float = 0.0,
    findings: float = 0.0,
    address: float = 0.0,
) -> Iterator[Item | Rejected]:
    """Items of so many patients; each share is that of images which have the thing."""
    draw = random.Random(seed)
    row = 1
    for patient in range(patients):
        chosen = draw.choice(SPLITS) if draw.random() < own else None
        for image in range(draw.randint(1, 7)):
            row += 1
            if draw.random() < rejected:
                yield Rejected(f"p{patient}/{image}.txt", "no image", row)
                continue
            split = draw.choice(SPLITS) if chosen and draw.random() < 0.2 else chosen
            item = Item(
                path=f"p{patient}/{image}.png",
                patient_id=f"p{patient}",
                study_id=f"s{image // 2}",
                fingerprint=f"{draw.randint(1, 10**6)}-{draw.randint(1, 10**18)}",
                labels={"abnormality": draw.choice((0, 0, 1, None)), "grade": draw.choice((0, 1, 2))},
                body_part=draw.choice(PARTS[: 1 + patient % len(PARTS)]),
                view=draw.choice((None, "PA")),
                view_index=draw.randint(0, 3),
                laterality=draw.choice((None, "L", "R")),
                split=split,
                row=row,
                findings=(Finding("lesion", (draw.random(), 0.25, 0.5, 0.1)),) if draw.random() < findings else (),
                address=f"elsewhere/{row}" if draw.random() < address else None,
            )
            yield item
            if draw.random() < doubled:
                yield item


CASES = {
    "plain": {"patients": 300},
    "small": {"patients": 3, "seed": 1},
    "one patient": {"patients": 1, "seed": 2},
    "own splits": {"patients": 200, "seed": 3, "own": 1.0},
    "some own splits": {"patients": 400, "seed": 4, "own": 0.4},
    "everything": {
        "patients": 700,
        "seed": 5,
        "own": 0.3,
        "doubled": 0.1,
        "rejected": 0.05,
        "findings": 0.2,
        "address": 0.3,
    },
    "doubled": {"patients": 150, "seed": 6, "doubled": 0.6, "findings": 0.01},
}


def planned(case: str, fractions=(0.7, 0.15, 0.15), resplit=False, shard_rows=20, **how: int) -> Plan:
    return make_plan(
        listing(**CASES[case]),
        (ABNORMALITY, GRADE),
        KEYS,
        fractions=fractions,
        resplit=resplit,
        seed=7,
        image_bytes=1024,
        shard_rows=shard_rows,
        context={"size": 32},
        **how,
    )


def digest(plan: Plan) -> str:
    """One word for all that a plan says, but for the order of its quarantine."""
    shards = [(s.split, s.number, s.plan, s.start, s.rows, s.path) for s in plan.shards]
    refused = sorted((q.path, q.reason, q.stage, q.split or "", q.row or 0) for q in plan.quarantined)
    told = (shards, plan.table.to_pydict(), refused, plan.listed, plan.studies, plan.own_splits, plan.assigned)
    return hashlib.sha256(repr(told).encode()).hexdigest()[:16]


VARIANTS = {
    "usual": {},
    "resplit": {"resplit": True, "fractions": (0.5, 0.25, 0.25)},
    "no test": {"fractions": (0.8, 0.2, 0.0)},
    "one row a shard": {"shard_rows": 1},
    "one shard": {"shard_rows": 65536},
    "tiny share": {"fractions": (0.998, 0.001, 0.001), "resplit": True},
}
EXPECTED = {
    ("plain", "usual"): "f5d70736bae4d5f3",
    ("plain", "resplit"): "4fb476155b44ffe0",
    ("plain", "no test"): "f700b65c0a9be889",
    ("plain", "one row a shard"): "f485e8b71534ca86",
    ("plain", "one shard"): "d70d91648f9a4c27",
    ("plain", "tiny share"): "19e0b00e24ffa614",
    ("small", "usual"): "4ce2a3b1517337e9",
    ("small", "resplit"): "48448b1064530efc",
    ("small", "no test"): "6d33e7fba05015e7",
    ("small", "one row a shard"): "84bf76bd1493b104",
    ("small", "one shard"): "4ce2a3b1517337e9",
    ("small", "tiny share"): "48448b1064530efc",
    ("one patient", "usual"): "8562450f9ec98737",
    ("one patient", "resplit"): "8562450f9ec98737",
    ("one patient", "no test"): "8562450f9ec98737",
    ("one patient", "one row a shard"): "410583792b060552",
    ("one patient", "one shard"): "8562450f9ec98737",
    ("one patient", "tiny share"): "8562450f9ec98737",
    ("own splits", "usual"): "7e66ca4597676031",
    ("own splits", "resplit"): "67f0d3d837ac2009",
    ("own splits", "no test"): "7e66ca4597676031",
    ("own splits", "one row a shard"): "4defc513faf8e5b6",
    ("own splits", "one shard"): "ad4be573527852f0",
    ("own splits", "tiny share"): "b6c8916becd403d1",
    ("some own splits", "usual"): "21ff0514c256a5e5",
    ("some own splits", "resplit"): "e609412f748b9a60",
    ("some own splits", "no test"): "50347e76c52c7cb9",
    ("some own splits", "one row a shard"): "ca6b62e3c9085dc1",
    ("some own splits", "one shard"): "eef8eec0c32742df",
    ("some own splits", "tiny share"): "9d0fb1fc956a7c7d",
    ("everything", "usual"): "5f68f2f5576d7f77",
    ("everything", "resplit"): "3d504523ede8dcc4",
    ("everything", "no test"): "2c434b7f006ca6ef",
    ("everything", "one row a shard"): "cee79a7924f2a94c",
    ("everything", "one shard"): "abc09634cf35cfb5",
    ("everything", "tiny share"): "d63f97191b8e9f1d",
    ("doubled", "usual"): "992dd351d73bbb9b",
    ("doubled", "resplit"): "1c210a5f42c545f0",
    ("doubled", "no test"): "e6cccff04f432e0d",
    ("doubled", "one row a shard"): "fa61746844adfcab",
    ("doubled", "one shard"): "1cea7e8ed5fb28cf",
    ("doubled", "tiny share"): "3306211bafb375b2",
}
