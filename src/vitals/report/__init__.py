"""The page about a run: `make_report` for one, `make_comparison` for several side by side."""

from vitals.report.page import make_comparison, make_report

__all__ = ["make_comparison", "make_report"]
