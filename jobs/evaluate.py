"""Evaluate as a Ray job: `ray job submit --working-dir . -- python jobs/evaluate.py MODEL --cohort URI`."""

import sys

from mskray.cli import main

if __name__ == "__main__":
    main(["evaluate", *sys.argv[1:]])
