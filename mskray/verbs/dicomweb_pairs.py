"""What a server says of a pair, as a DICOM report on both of its images."""

from pydicom import Dataset

from mskray.dicom import Finding, Group, structured_report
from mskray.serving.schemas.models import Models
from mskray.serving.schemas.pairs import PairAnswer
from mskray.verbs.dicomweb_models import ensemble_algorithm


def pair_results(before: Dataset, after: Dataset, answer: PairAnswer, models: Models) -> list[Dataset]:
    """Return a structured report on a pair; of two studies it is filed under the later one.

    Raises:
        UserError: as `structured_report`, such as for images of two patients.
    """
    said = answer.pair
    finding = Finding(answer.model.task, said.label, said.probabilities, said.threshold, answer.members)
    group = Group("pair", (finding,), notes=tuple(warning.message for warning in answer.warnings))
    return [structured_report([before, after], [group], ensemble_algorithm(answer.model, models, "pairs"))]
