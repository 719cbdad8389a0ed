"""Predict as a Ray job: `ray job submit --working-dir . -- python jobs/predict.py MODEL IN --out URI`."""

import sys

from mskray.cli import main

if __name__ == "__main__":
    main(["predict", *sys.argv[1:]])
