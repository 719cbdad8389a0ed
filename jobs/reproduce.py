"""A paper's table as a Ray job: `ray job submit --working-dir . -- python jobs/reproduce.py TABLE --cohort URI …`."""

import sys

from mskray.cli import main

if __name__ == "__main__":
    main(["reproduce", *sys.argv[1:]])
