"""The served ensemble: HTTP in, probabilities out.

    mskray serve s3://models/knees --port 8000

- `settings`      limits of a request, and addresses that others reach
- `tokens`        who may ask for what
- `schemas`       what the two deployments say to each other and to a client
- `problems`      errors as RFC 9457 problem details
- `uploads`       a multipart body to decoded views, within the limits; `archives` unpacks zips
- `volumes`       an upload to the one sagittal volume in it
- `gate`          how many studies at a time, how many wait, how long
- `api`           the FastAPI routes
- `accounts`      what is written down of each request: `meters` for Prometheus, `audit` for good
- `members`       the ensemble in one replica: votes and batches; `answers` puts them into words
- `pairs`, `spines`   what a replica holds that judges pairs, or finds bodies and grades discs
- `drift`         whether studies still look like those that the ensemble was judged on
- `application`   the two as one Ray Serve application
- `run`           start, wait until ready, stop

Only `members`, `pairs`, `spines` and `run` import torch: the replica that answers HTTP starts without it.
"""
