"""What a server says of its models, as DICOM results name what made them."""

import mskray
from mskray.dicom import Algorithm
from mskray.errors import UserError
from mskray.serving.schemas.common import ModelName
from mskray.serving.schemas.models import Models, Served


def ensemble_algorithm(model: ModelName, models: Models, serves: Served) -> Algorithm:
    """What answered a study or a pair, with its members."""
    settings = {"calibrated": str(model.calibrated).lower()}
    return Algorithm(model.name, mskray.__version__, model.hash, settings, _members(models, serves))


def spine_algorithm(models: Models) -> Algorithm:
    """What reads spines, a detector and a grader. Raises UserError where the server reads none."""
    if models.spines is None:
        raise UserError(f"the server answers {' and '.join(models.served)}, no spines: ask another one")
    return Algorithm(models.spines.name, mskray.__version__, models.spines.hash, {}, _members(models, "spines"))


def _members(models: Models, serves: Served) -> tuple[Algorithm, ...]:
    return tuple(
        Algorithm(each.name, mskray.__version__, each.hash) for each in models.members if each.serves == serves
    )
