"""The words of a result as coded concepts: SNOMED CT, DICOM's own and NCIt where they have one, else 99MSKRAY.

The private scheme is named in the Coding Scheme Identification Sequence of every object that may use it. Its codes are
the names that cohorts and bundles use, so that they can be read back without a table: `pfirrmann`, `pfirrmann:III`.
"""

from highdicom.coding_schemes import CodingSchemeIdentificationItem
from highdicom.sr import CodedConcept
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from mskray.imaging.spine import DISCS

SCHEME = "99MSKRAY"
PROBABILITY_PREFIX = "probability:"
"""Of the private codes of probabilities, before the task and the class."""

#: PS3.16 CID 7602; SNOMED names a disc after the vertebra above it.
_DISC_CODES = ("76206002", "80064006", "67459009", "62551000", "84020006", "715056000")
DISC_SITES: dict[str, Code] = {
    level: Code(value, "SCT", f"{level} disc") for level, value in zip(DISCS, _DISC_CODES, strict=True)
}

#: PS3.16 CID 7603 but for S1, of which it has no code of its own.
VERTEBRAE: dict[str, Code] = {
    "T12": codes.SCT.T12Vertebra,
    "L1": codes.SCT.L1Vertebra,
    "L2": codes.SCT.L2Vertebra,
    "L3": codes.SCT.L3Vertebra,
    "L4": codes.SCT.L4Vertebra,
    "L5": codes.SCT.L5Vertebra,
    "S1": codes.SCT.Vertebra,
}

#: PS3.16 table L-1, by BodyPartExamined.
BODY_PARTS: dict[str, Code] = {
    part: Code(value, "SCT", meaning)
    for part, value, meaning in (
        ("ANKLE", "70258002", "Ankle joint"),
        ("CSPINE", "122494005", "Cervical spine"),
        ("ELBOW", "16953009", "Elbow joint"),
        ("FINGER", "7569003", "Finger"),
        ("FOOT", "56459004", "Foot"),
        ("FOREARM", "14975008", "Forearm"),
        ("HAND", "85562004", "Hand"),
        ("HIP", "24136001", "Hip joint"),
        ("HUMERUS", "85050009", "Humerus"),
        ("KNEE", "72696002", "Knee"),
        ("LSPINE", "122496007", "Lumbar spine"),
        ("SHOULDER", "16982005", "Shoulder"),
        ("SPINE", "421060004", "Spine"),
        ("TSPINE", "122495006", "Thoracic spine"),
        ("WRIST", "74670003", "Wrist joint"),
    )
}

LATERALITIES: dict[str, Code] = {
    "L": Code("7771000", "SCT", "Left"),
    "R": Code("24028007", "SCT", "Right"),
    "B": Code("51440002", "SCT", "Right and left"),
}

PROCEDURES: dict[str, Code] = {
    "MR": Code("113091000", "SCT", "Magnetic resonance imaging"),
    "CT": Code("77477000", "SCT", "Computed tomography"),
    "CR": codes.SCT.PlainRadiography,
    "DX": codes.SCT.PlainRadiography,
}
"""By modality; of any other, `IMAGING`."""
IMAGING = codes.SCT.ImagingProcedure

THRESHOLD = Code("122411", "DCM", "Threshold Value")
COMMENT = Code("121106", "DCM", "Comment")
SALIENCY = Code("130404", "DCM", "Saliency")
NO_UNITS = Code("1", "UCUM", "no units")
NEURAL_NETWORK = Code("123110", "DCM", "Artificial Intelligence")
SOURCE_IMAGE = Code("121322", "DCM", "Source image for image processing operation")
SPATIAL_CONCEPT = Code("309825002", "SCT", "Spatial and Relational Concept")
ANATOMICAL_STRUCTURE = codes.SCT.AnatomicalStructure
REGION = Code("C85402", "NCIt", "Imaging Region of Interest")
KEY_AREA = Code("key_area", SCHEME, "Key area")

_TASKS: dict[str, Code] = {"abnormality": Code("C9440", "NCIt", "Abnormality")}
_TASK_MEANINGS = {
    "pfirrmann": "Pfirrmann grade of disc degeneration",
    "narrowing": "Disc narrowing",
    "upper_endplate": "Upper endplate",
    "lower_endplate": "Lower endplate",
    "upper_marrow": "Marrow of the upper vertebral body",
    "lower_marrow": "Marrow of the lower vertebral body",
    "kl_grade": "Kellgren-Lawrence grade of osteoarthritis",
}
#: Classes whose name means the same in every task.
_CLASSES: dict[str, Code] = {
    "normal": Code("17621005", "SCT", "Normal"),
    "abnormal": Code("263654008", "SCT", "Abnormal"),
    "none": Code("260413007", "SCT", "None"),
    "mild": Code("255604002", "SCT", "Mild"),
    "moderate": Code("6736007", "SCT", "Moderate"),
    "severe": Code("24484000", "SCT", "Severe"),
}


def task_concept(task: str) -> CodedConcept:
    """The question that a finding answers."""
    return coded(_TASKS.get(task) or Code(task, SCHEME, _TASK_MEANINGS.get(task, task.replace("_", " "))))


def class_concept(task: str, label: str) -> CodedConcept:
    """The class that a finding calls."""
    return coded(_CLASSES.get(label) or Code(f"{task}:{label}", SCHEME, label.replace("_", " ")))


def probability_concept(task: str, label: str) -> CodedConcept:
    """The probability of one class: no scheme has a code for each, and one code for all would not tell them apart."""
    meaning = f"Probability of {task.replace('_', ' ')}: {label.replace('_', ' ')}"
    return coded(Code(f"{PROBABILITY_PREFIX}{task}:{label}", SCHEME, meaning))


def scheme() -> CodingSchemeIdentificationItem:
    """What the private scheme is, for the Coding Scheme Identification Sequence."""
    return CodingSchemeIdentificationItem(
        SCHEME, name="Tasks and classes of mskray's models", version="1", responsible_organization="mskray"
    )


def coded(code: Code) -> CodedConcept:
    """A code as an item; a meaning longer than the 64 characters that DICOM allows is cut."""
    return CodedConcept(code.value, code.scheme_designator, code.meaning[:64])
