"""The report: tables of what may be compared, and the page that shows them with their pictures."""

from mde.report.tabulation import read_summaries, tables

__all__ = ["read_summaries", "tables"]
