"""The served ensemble: HTTP in, probabilities out.

    mskray serve s3://models/knees --port 8000

- `settings`      limits of a request, and who may ask: addresses and tokens
- `schemas`       what the two deployments say to each other and to a client
- `problems`      errors as RFC 9457 problem details
- `uploads`       a multipart body to decoded views, within the limits
- `gate`          how many studies at a time, how many wait, how long
- `api`           the FastAPI routes
- `members`       the ensemble in one replica: votes and batches
- `application`   the two as one Ray Serve application
- `run`           start, wait until ready, stop

Only `members` and `run` import torch: the replica that answers HTTP starts without it.
"""
