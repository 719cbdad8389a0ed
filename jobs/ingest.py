"""Ingest as a Ray job: `ray job submit --working-dir . -- python jobs/ingest.py SOURCE IN --out URI`."""

import sys

from mskray.cli import main

if __name__ == "__main__":
    main(["ingest", *sys.argv[1:]])
