"""CRMO's table as a Ray job: `ray job submit --working-dir . -- python jobs/pair_table.py COHORT --out URI …`."""

import sys

from mskray.cli import main

if __name__ == "__main__":
    main(["pair-table", *sys.argv[1:]])
