"""The doctor's section of report.html."""

from __future__ import annotations

from html import escape

from worldcompass.doctor.record import Finding
from worldcompass.doctor.verdict import Diagnosis
from worldcompass.statistics import LEVEL

WORDS = {
    "warning": "warning",
    "stuck": "stuck: the model learns nothing",
    "harmful": "harmful: the weights get worse",
}


def section(diagnosis: Diagnosis) -> str:
    """Verdict, trends, findings, the doctor's actions and the skipped checks, as HTML."""
    answer, *trends = diagnosis.sentences()
    note = f"Changes with {LEVEL:.0%} intervals; each chunk of the curriculum is compared with itself."
    findings = "".join(_finding(finding) for finding in diagnosis.findings)
    unmeasured = f'<p class="muted">{escape(diagnosis.unmeasured())}</p>' if diagnosis.not_measured else ""
    return (
        f'<section aria-labelledby="doctor"><h2 id="doctor">Doctor</h2><p><strong>{escape(answer)}</strong></p>'
        f'{_list(trends)}<p class="muted">{note}</p>'
        f"{findings or '<p>No disease found.</p>'}{_list(diagnosis.history)}{unmeasured}</section>"
    )


def _finding(finding: Finding) -> str:
    return (
        f'<article class="finding {finding.severity}"><h3>{escape(finding.name.capitalize())}</h3>'
        f'<p class="muted">{WORDS[finding.severity]}, since step {finding.since}</p>'
        f"<p>{_sentence(finding.cause)}</p><p><b>Evidence.</b> {_sentence(finding.evidence)}</p>"
        f"<p><b>Advice.</b> {_sentence(finding.advice)}</p></article>"
    )


def _sentence(text: str) -> str:
    return escape(text[:1].upper() + text[1:]) + "."


def _list(lines: tuple[str, ...] | list[str]) -> str:
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<ul>{items}</ul>" if items else ""
