"""The served models: HTTP in, probabilities out; a page for readers.

    mskray serve s3://models/knees --port 8000

What is asked and what is answered
- `schemas`       what deployments say to each other and to a client; `problems` errors as RFC 9457 problem details
- `api`           the application: `routes`, a file for each thing that is asked for, over a `desk` that they share
- `forms`, `bodies`   what arrives, within limits (`settings`); `archives` unpacks zips
- `uploads`, `volumes`   files to views, or to the one sagittal volume in them
- `studying`, `reading`, `batches`   from these to an answer

Who may ask, and what is kept
- `tokens`, `origins`, `gate`   who, from where, how many at a time
- `accounts`      what is written down of each request: `meters` for Prometheus, `audit` for good
- `store`         what links, `jobs` and `idempotency` keep for a day; `beats`, `patience` when a replica dies or waits
- `feedback`      what readers correct

What answers
- `backend`       what the routes know of it; `remote` is it in Ray Serve, `catalogue` its list of models
- `members`       the ensemble in one replica: votes and batches; `answers`, `evidence` put them into words and maps
- `apart`         members in deployments of their own; `rolling`, `rollouts` another ensemble while the server runs
- `pairs`, `spines`   what judges pairs, or finds bodies and grades discs; `turns` keeps readings apart
- `drift`         whether studies still look like those that the ensemble was judged on
- `deployments`, `application`   all of it in Ray Serve; `offered`, `run` try, start, wait until ready, stop

Only what stands in replicas of models imports torch: the one that answers HTTP starts without it.
"""
