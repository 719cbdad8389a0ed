"""One URI to one place: s3://bucket/key, file:///… and plain paths behave alike for every other room.

    location = locate("s3://cohorts/knees").join("cohort.json")
    check_access(location, write=True)      # before any work: one clear line if the store says no
    location.write_json({"rows": 3})        # whole or not at all, retried
    pq.read_table(location.path, filesystem=location.filesystem)

`locations` holds the interface, `local` and `s3` the two stores behind it, `connection` what boto3 resolved, `arrow`
the filesystem that Arrow and Ray read through, `tables` tables as bytes, `versioned` JSON that says its version,
`faults` what is retried and how an error becomes one line.
"""

from mskray.storage.entries import FileEntry
from mskray.storage.locations import Location, check_access, locate

__all__ = ["FileEntry", "Location", "check_access", "locate"]
