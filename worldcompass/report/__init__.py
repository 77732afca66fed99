"""Self-contained pages about runs: one run (``page``), or several in comparison (``compare``)."""

from worldcompass.report.compare import write_comparison
from worldcompass.report.page import write_report

__all__ = ["write_comparison", "write_report"]
