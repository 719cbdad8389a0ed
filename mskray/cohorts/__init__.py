"""Cohorts: foreign layouts become Parquet shards of decoded images, and are read back as arrays.

- `schema`   what a cohort is on disk
- `sources`  one file per foreign layout
- `ingest`   source → cohort: listing, splits, shards, quarantine
- `read`     cohort → arrays, tables, Ray data sets
- `views`    splits exchanged, merged or dealt to folds, without writing

    mskray ingest SOURCE IN --out URI
    mskray cohort show URI
"""

from mskray.cohorts.build import IngestSettings
from mskray.cohorts.contact_sheet import Group, contact_sheet, summary
from mskray.cohorts.ingest import IngestSummary, ingest
from mskray.cohorts.read import Cohort, open_cohort
from mskray.cohorts.schema import SPLITS, ImageFormat, Manifest, Shard, Task
from mskray.cohorts.sources import get_source, source_names
from mskray.cohorts.views import Fold, View

__all__ = [
    "SPLITS",
    "Cohort",
    "Fold",
    "Group",
    "ImageFormat",
    "IngestSettings",
    "IngestSummary",
    "Manifest",
    "Shard",
    "Task",
    "View",
    "contact_sheet",
    "get_source",
    "ingest",
    "open_cohort",
    "source_names",
    "summary",
]
