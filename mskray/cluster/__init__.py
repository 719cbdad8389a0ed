"""Joining a Ray cluster, or starting one here, and refusing what could never be scheduled or should not be joined."""

from mskray.cluster.growing import grows
from mskray.cluster.needs import Need, check, free, require, room, total
from mskray.cluster.sessions import check_dashboard, session, silence_data

__all__ = ["Need", "check", "check_dashboard", "free", "grows", "require", "room", "session", "silence_data", "total"]
