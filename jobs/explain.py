"""Explain as a Ray job: `ray job submit --working-dir . -- python jobs/explain.py MODEL IN --out URI`."""

import sys

from mskray.cli import main

if __name__ == "__main__":
    main(["explain", *sys.argv[1:]])
