"""Cohorts: foreign layouts become Parquet shards of decoded images, and are read back as arrays.

- `schema`   what a cohort is on disk
- `sources`  one file per foreign layout
- `ingest`   source → cohort: listing, splits, shards, quarantine
- `read`     cohort → arrays and tables; `ray_data` → Ray data sets
- `views`    splits exchanged, merged or dealt to folds, without writing
- `added`    the train split of another cohort learned too, without writing

    mskray ingest SOURCE IN --out URI
    mskray cohort show URI

What is offered here reads cohorts; `mskray.cohorts.ingest`, which decodes every foreign format, takes longer to load.
"""

from mskray.cohorts.read import Cohort, open_cohort
from mskray.cohorts.schema import SPLITS, ImageFormat, Manifest, Shard, Task
from mskray.cohorts.views import Fold, View

__all__ = ["SPLITS", "Cohort", "Fold", "ImageFormat", "Manifest", "Shard", "Task", "View", "open_cohort"]
