"""The papers' tables beside ours: `ray job submit --working-dir . -- python jobs/report.py --results URI`."""

import sys

from mskray.cli import main

if __name__ == "__main__":
    main(["report", *sys.argv[1:]])
