"""Grades of all discs of volumes as a Ray job:

ray job submit --working-dir . -- python jobs/grade.py BUNDLE IN --corners corners.json --out grades.csv
"""

import sys

from mskray.cli import main

if __name__ == "__main__":
    main(["grade", *sys.argv[1:]])
