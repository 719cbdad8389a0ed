"""`python -m mskray.cli` is `mskray`."""

from mskray.cli import main

if __name__ == "__main__":
    main()
