"""Ctrl-C while Ray Train works."""

import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from mskray.progress import Progress, Report

_STOPPING = "stopping, which takes some seconds; what comes after the last stored epoch is lost"


@contextmanager
def own_ctrl_c(report: Report, stopping: threading.Event) -> Iterator[None]:
    """Say at once that Ctrl-C was heard, and set `stopping`.

    Ray Train answers Ctrl-C itself: for some seconds it stops the run in order and stores no epoch any more, all
    without a word, and then it leaves the program.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)
    heard, told = socket.socketpair()
    told.setblocking(False)
    other = signal.set_wakeup_fd(told.fileno(), warn_on_full_buffer=False)

    def watch() -> None:
        while number := heard.recv(1):
            if number[0] == signal.SIGINT and not stopping.is_set():
                stopping.set()
                report(Progress(_STOPPING))

    thread = threading.Thread(target=watch, name="ctrl-c", daemon=True)
    thread.start()
    try:
        yield
    except SystemExit:
        raise KeyboardInterrupt from None
    finally:
        signal.set_wakeup_fd(other)
        signal.signal(signal.SIGINT, before)
        told.close()
        thread.join(timeout=10)
        heard.close()
