"""Compare as a Ray job: `ray job submit --working-dir . -- python jobs/compare.py OLD NEW --cohort URI`."""

import sys

from mskray.cli import main

if __name__ == "__main__":
    main(["compare", *sys.argv[1:]])
