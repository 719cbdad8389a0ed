"""A bundle at a URI, ready to predict."""

import torch
from pydantic import ValidationError

import mskray
from mskray.bundles import DESCRIPTION, WEIGHTS, Bundle, Fitted, load_bundle
from mskray.errors import UserError
from mskray.families.base import Predictor, family
from mskray.storage import Location


def load_predictor(uri: str | Location, device: str = "cpu") -> tuple[Bundle, Predictor]:
    """Load a bundle, ready to predict.

    Raises:
        UserError: as `load_bundle`, for a config or state that do not fit, and where the device is not there.
    """
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError("torch finds no GPU here: do without --gpu")
    bundle, fitted = load_bundle(uri)
    return bundle, predictor_of(uri, bundle, fitted, device)


def predictor_of(uri: str | Location, bundle: Bundle, fitted: Fitted, device: str = "cpu") -> Predictor:
    """Return what predicts by a bundle's content; `uri` stands for it in errors. Raises UserError: it does not fit."""
    try:
        return family(bundle.family).predictor(fitted, device)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise UserError(
            f"bundle {uri}: config {key}: {first['msg']} in family {bundle.family} of mskray {mskray.__version__} (the "
            f"bundle is of {bundle.versions.get('mskray', 'another')}): update mskray or train again"
        ) from None
    except RuntimeError as error:
        if "state_dict" not in str(error):  # a device that fails is no fault of the bundle
            raise
        raise UserError(
            f"bundle {uri}: {WEIGHTS} does not fit the network that {DESCRIPTION} describes "
            f"({' '.join(str(error).split())[:200]}): restore the bundle or train again"
        ) from None
