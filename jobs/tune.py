"""A search as a Ray job: `ray job submit --working-dir . -- python jobs/tune.py CONFIG.yaml section.key=value …`."""

import sys

from mskray.cli import main

if __name__ == "__main__":
    main(["tune", *sys.argv[1:]])
