"""Searching a family's config with Ray Tune: spaces, searchers, trials, the ledger and what is shown of it."""
