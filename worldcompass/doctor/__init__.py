"""Whether a run is learning, and if not, what is wrong: findings and a verdict from its metrics."""

from worldcompass.doctor.reading import evaluated, read_record
from worldcompass.doctor.record import Finding, Record
from worldcompass.doctor.verdict import Diagnosis, diagnose

__all__ = ["Diagnosis", "Finding", "Record", "diagnose", "evaluated", "read_record"]
