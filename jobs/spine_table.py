"""SpineNet's Table 2 as a Ray job: `ray job submit --working-dir . -- python jobs/spine_table.py CONFIG.yaml …`."""

import sys

from mskray.cli import main

if __name__ == "__main__":
    main(["spine-table", *sys.argv[1:]])
