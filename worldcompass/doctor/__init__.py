"""Is this run learning, and if not, what ails it? Findings and a verdict from a run's own metrics."""

from worldcompass.doctor.reading import evaluated, read_record
from worldcompass.doctor.record import Finding, Record
from worldcompass.doctor.verdict import Diagnosis, diagnose

__all__ = ["Diagnosis", "Finding", "Record", "diagnose", "evaluated", "read_record"]
