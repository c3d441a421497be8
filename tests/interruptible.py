"""Children that Ctrl-C reaches, whoever started the tests."""

import signal


def interruptible() -> None:
    """For `preexec_fn`: a background job ignores SIGINT, and its children would inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
