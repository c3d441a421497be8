"""With P2PKIT_CI set, a test that lacks MinkowskiEngine or the real recordings fails."""

import os

import pytest

REQUIRED = ("MinkowskiEngine", "P2PKIT_DATA")
"""What names the missing part in the reason of a skip."""


def fail_if_required(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Turn a skip for a missing part that CI has to have into a failure."""
    if not os.environ.get("P2PKIT_CI") or not report.skipped:
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    if any(part in reason for part in REQUIRED):
        report.outcome = "failed"
        report.longrepr = f"P2PKIT_CI is set, so this may not be skipped: {reason}"
