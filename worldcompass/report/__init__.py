"""Pages about runs that hold everything they show: one run (``page``), several beside each other (``compare``)."""

from worldcompass.report.compare import write_comparison
from worldcompass.report.page import write_report

__all__ = ["write_comparison", "write_report"]
