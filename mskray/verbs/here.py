"""Whether a command does its work in its own process: Ray's take half a minute to start."""

import os
import sys


def no_cluster() -> bool:
    """Whether neither RAY_ADDRESS names a cluster nor this process has joined one. Imports no Ray."""
    ray = sys.modules.get("ray")
    return not os.environ.get("RAY_ADDRESS") and (ray is None or not ray.is_initialized())
