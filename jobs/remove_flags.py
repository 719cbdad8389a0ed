"""Flag removal as a Ray job:

ray job submit --working-dir . -- python jobs/remove_flags.py BUNDLE COHORT --out URI
"""

import sys

from mskray.cli import main

if __name__ == "__main__":
    main(["remove-flags", *sys.argv[1:]])
