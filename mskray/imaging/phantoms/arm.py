"""Shoulder girdle, arm and forearm of a phantom: bones and soft tissue as tubes, in mm (axes: see `shapes`).

The origin is the elbow joint. Sizes are those of an average adult, read off anatomy tables and rounded.
"""

from dataclasses import replace

import numpy as np

from mskray.imaging.phantoms.shapes import Point, Tube

HUMERUS = Tube(
    "humerus",
    start=(2.0, -310.0, 0.0),
    end=(0.0, 0.0, 0.0),
    profile=(
        (0, 6, 18, 16, 16),
        (9, 16, 29, 22, 22),
        (22, 20.5, 34, 25, 25),
        (36, 20.5, 31, 24, 24),
        (48, 18, 23, 20, 20),
        (60, 15, 16.5, 16, 16),
        (80, 12.5, 13, 13, 13),
        (120, 12.5, 12, 12, 12),
        (190, 11, 11, 11, 11),
        (240, 12, 13, 10, 10),
        (268, 17, 19, 9, 10),
        (284, 27, 32, 10, 9),
        (291, 28, 35, 12, 9),
        (299, 24, 28, 14, 8),
        (310, 22, 23, 15, 6),
    ),
    wall=4.5,
    caps=(15, 7),
    relief=((0, -1, -1, 0, 4, 6, 5, 7), (1.5, -3, -1, 3, 0.5, -1.5, -1, 2)),
    growth=(0.14, 0.945),
)

RADIUS = Tube(
    "radius",
    start=(12.0, 3.0, 2.0),
    end=(10.0, 245.0, 0.0),
    profile=(
        (0, 10.5, 10.5, 10.5, 10.5),
        (9, 11, 11, 11, 11),
        (15, 8, 8, 8, 8),
        (24, 7, 8, 7.5, 7),
        (34, 7, 10.5, 8.5, 7),
        (48, 7.5, 7.5, 7.5, 6.5),
        (90, 11, 3.5, 7, 6.5),
        (120, 12.5, 2.5, 7, 6.5),
        (170, 11, 5.5, 7.5, 6.5),
        (205, 10, 9, 8.5, 6.5),
        (225, 12.5, 12.5, 10, 7.5),
        (236, 15.5, 15, 12, 9.5),
        (242, 16, 14, 11, 9),
    ),
    wall=3.2,
    caps=(2, 3),
    relief=((0, 1, 1.5, 1, 0), (0.5, 2, 2.5, 1, -3, -7, -4)),
    growth=(0.045, 0.95),
)

ULNA = Tube(
    "ulna",
    start=(-8.0, -16.0, -7.0),
    end=(-13.0, 243.0, -2.0),
    profile=(
        (0, 9, 9, 5, 9),
        (8, 12, 12, 9, 10),
        (18, 11.5, 11.5, 2, 11),
        (33, 12, 13, 14, 11),
        (44, 10.5, 10, 10, 10),
        (62, 8.5, 8.5, 8, 8),
        (140, 7, 7, 6.5, 7),
        (215, 5.5, 5.5, 5, 5),
        (243, 6.5, 6.5, 6, 6),
        (254, 8.5, 8.5, 8, 8),
        (259, 8, 8, 8, 8),
    ),
    wall=3.0,
    caps=(6, 2),
    relief=((), (-5, -2, 0.5, 1, 0.5)),
    growth=(0.95,),
)

UPPER_ARM = Tube(
    "upper arm",
    start=(0.0, -400.0, 0.0),
    end=(-2.0, 40.0, 0.0),
    profile=(
        (0, 60, 60, 55, 55),
        (120, 52, 50, 50, 50),
        (240, 44, 44, 48, 44),
        (360, 40, 42, 40, 40),
        (400, 44, 44, 40, 40),
        (440, 42, 42, 38, 38),
    ),
    wall=7.0,
    caps=(5, 60),
)

FOREARM = Tube(
    "forearm",
    start=(0.0, -40.0, 0.0),
    end=(0.0, 275.0, 0.0),
    profile=(
        (0, 42, 42, 36, 36),
        (75, 48, 46, 40, 36),
        (135, 42, 40, 36, 32),
        (215, 31, 31, 26, 24),
        (275, 30, 30, 22, 22),
        (315, 33, 33, 20, 20),
    ),
    wall=5.0,
    caps=(60, 45),
)

# The shoulder, placed against the head of a humerus whose top is at y = −310.
SCAPULA = (
    Tube(
        "glenoid",
        start=(-36.0, -284.0, -2.0),
        end=(-88.0, -288.0, -8.0),
        profile=((0, 18, 18, 12, 12), (5, 18, 18, 12, 12), (20, 14, 15, 7, 7), (52, 16, 20, 2, 2)),
        wall=1.6,
        caps=(3, 16),
        relief=((-0.5, 1.5, 2.2, 1.5, -0.5), ()),
        density=0.75,
    ),
    Tube(
        "lateral border",
        start=(-44.0, -276.0, -6.0),
        end=(-92.0, -178.0, -18.0),
        profile=((0, 9, 9, 5, 5), (40, 4, 7, 4, 4), (109, 3, 6, 3, 3)),
        wall=1.6,
        caps=(10, 10),
        density=0.7,
    ),
    Tube(
        "scapular body",
        start=(-92.0, -312.0, -8.0),
        end=(-100.0, -176.0, -22.0),
        profile=((0, 40, 36, 2, 2), (40, 38, 36, 1.5, 1.5), (90, 16, 32, 1.5, 1.5), (136, 6, 10, 2, 2)),
        wall=1.6,
        caps=(12, 12),
        density=0.55,
    ),
    Tube(
        "scapular spine",
        start=(-126.0, -296.0, -12.0),
        end=(-34.0, -324.0, -24.0),
        profile=((0, 4, 4, 4, 4), (50, 5, 6, 7, 5), (97, 9, 8, 8, 6)),
        wall=1.8,
        caps=(10, 12),
        density=0.8,
    ),
    Tube(
        "acromion",
        start=(-40.0, -323.0, -24.0),
        end=(10.0, -322.0, -8.0),
        profile=((0, 7, 7, 7, 6), (26, 6, 6, 12, 10), (53, 5, 5, 11, 9)),
        wall=2.2,
        caps=(4, 12),
    ),
    Tube(
        "coracoid",
        start=(-56.0, -312.0, 4.0),
        end=(-32.0, -297.0, 24.0),
        profile=((0, 7, 7, 7, 7), (17, 7, 7, 7, 6), (34, 6, 6, 6, 6)),
        wall=2.0,
        caps=(4, 7),
    ),
)

CLAVICLE = Tube(
    "clavicle",
    start=(-172.0, -322.0, 20.0),
    end=(-14.0, -330.0, -8.0),
    profile=(
        (0, 12, 12, 11, 11),
        (25, 11, 4, 14, 0),
        (60, 12, 2, 17, -4),
        (95, 7, 6, 8, 5),
        (130, 4, 10, -1, 15),
        (160, 7, 9, 9, 9),
    ),
    wall=2.6,
    caps=(4, 3),
)

TORSO = (
    Tube(
        "torso",
        start=(-150.0, -420.0, 0.0),
        end=(-150.0, 180.0, 0.0),
        profile=((0, 60, 80, 60, 60), (70, 95, 100, 75, 75), (130, 118, 110, 85, 85), (600, 108, 120, 90, 90)),
        wall=12.0,
        caps=(30, 5),
    ),
    Tube(
        "deltoid",
        start=(-95.0, -355.0, 0.0),
        end=(12.0, -170.0, 0.0),
        profile=((0, 40, 40, 40, 40), (70, 50, 60, 52, 52), (214, 44, 60, 50, 50)),
        wall=8.0,
        caps=(40, 70),
    ),
)

LUNG = Tube(
    "lung",
    start=(-142.0, -322.0, 0.0),
    end=(-148.0, 20.0, 0.0),
    profile=((0, 30, 30, 40, 40), (70, 58, 60, 62, 62), (262, 78, 80, 70, 70), (342, 78, 80, 70, 70)),
    wall=1.0,
    caps=(60, 5),
)


def ribs() -> tuple[Tube, ...]:
    """Ribs 2–6 on the side of the shoulder, each a bent strut that runs out and down."""
    bent = ((0, 4, 5, 4, 4), (30, -2, 12, 4, 4), (70, -8, 19, 4, 4), (105, -3, 13, 4, 4), (130, 4, 5, 4, 4))
    return tuple(
        Tube(
            f"rib {2 + i}",
            start=(-185.0, -322.0 + 31 * i, -25.0),
            end=(-104.0 + 5.0 * i, -240.0 + 33 * i, 22.0),
            profile=bent,
            wall=1.4,
            caps=(2, 2),
            density=0.75,
        )
        for i in range(5)
    )


def bend(tubes: tuple[Tube, ...], pivot: Point, degrees: float) -> tuple[Tube, ...]:
    """Flexes tubes at a joint: turns them towards the front about the lateral axis through `pivot`."""
    angle = np.deg2rad(degrees)
    turn = np.array(((1, 0, 0), (0, np.cos(angle), -np.sin(angle)), (0, np.sin(angle), np.cos(angle))))

    def moved(point: Point) -> Point:
        x, y, z = turn @ np.subtract(point, pivot) + pivot
        return float(x), float(y), float(z)

    return tuple(replace(tube, start=moved(tube.start), end=moved(tube.end)) for tube in tubes)
