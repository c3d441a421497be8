"""report: a run or a store as one HTML page."""
