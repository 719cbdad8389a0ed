"""Vertebral bodies of volumes as a Ray job:

ray job submit --working-dir . -- python jobs/find_vertebrae.py BUNDLE IN --out corners.json --overlay FOLDER
"""

import sys

from mskray.cli import main

if __name__ == "__main__":
    main(["find-vertebrae", *sys.argv[1:]])
