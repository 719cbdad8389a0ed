"""Join bundles as a Ray job: `ray job submit --working-dir . -- python jobs/ensemble.py BUNDLE … --out URI`."""

import sys

from mskray.cli import main

if __name__ == "__main__":
    main(["ensemble", *sys.argv[1:]])
