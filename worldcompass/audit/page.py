"""The page audit.html: one critic's audit with pictures."""

from __future__ import annotations

from html import escape
from math import isfinite

from worldcompass.audit.exploit import NEVER_FAR
from worldcompass.audit.run import CORRELATED_WITH, Audit, shown
from worldcompass.audit.tricks import TRICKS
from worldcompass.media import video
from worldcompass.media.html import data_address, document
from worldcompass.statistics import number

EVERY, SCALE = 3, 3  # frames between the pictures of a strip, and their magnification


def render(audit: Audit, command: str) -> str:
    """The page of an audit.

    Args:
        audit: the results.
        command: that made them, shown at the end.
    """
    title = f"Audit of the critic {audit.critic}"
    sound = not audit.faults
    badge = (
        f'<span class="badge {"learning" if sound else "worse"}">{"sound" if sound else "not sound"}</span>'
    )
    tricks = audit.fooled_by_other_tricks()
    alone = f"<p>Never use it alone: {', '.join(tricks)} scores as high as the truth.</p>" if tricks else ""
    faults = "".join(f"<li>{escape(fault)}</li>" for fault in audit.faults)
    parts = [
        f"<header><h1>{escape(title)}</h1><p>{badge} Expected to notice: {escape(audit.expects.words)}; "
        f"{audit.clips} clips of {audit.videos} engine videos, on held-out maps.</p>"
        f"{f'<ul>{faults}</ul>' if faults else ''}{alone}</header>",
        _numbers(audit),
        _lies(audit),
        _tricks(audit),
        _examples(audit),
        f'<section><p class="muted">{escape(command)}</p></section>',
    ]
    return document(title, parts)


def _numbers(audit: Audit) -> str:
    calibration = "not a share" if audit.calibration is None else number(audit.calibration)
    rows = {
        "Full lies that it must notice and that score below the truth": shown(audit.accuracy),
        "Lies of any kind that it overlooks": ", ".join(audit.overlooked()) or "none",
        **{
            f"Rank correlation with {words}": number(audit.correlation[key])
            for key, words in CORRELATED_WITH.items()
        },
        "Distance between score and share obeyed": calibration,
        "Spread of the score under invisible grain": number(audit.tremor),
        "Drop under a full expected lie, in units of this spread": number(audit.signal),
        "Abstentions": f"{audit.abstained:.0%}",
    }
    cells = "".join(
        f'<tr><th scope="row">{name}</th><td class="words">{escape(value)}</td></tr>'
        for name, value in rows.items()
    )
    return f"<section><h2>Agreement with the truth</h2><table><tbody>{cells}</tbody></table></section>"


def _lies(audit: Audit) -> str:
    rows = "".join(
        f'<tr><th scope="row">{escape(name.replace("@", ", strength "))}</th>'
        f'<td class="{"good" if value.low > 0.5 else "bad"}">{_emphasised(audit, name, shown(value))}</td></tr>'
        for name, value in audit.punished.items()
    )
    return (
        '<section><h2>Lies</h2><p class="muted">How often the degraded clip scores below the true one, with 95% '
        "intervals over videos. 50% is chance. The critic must notice those in bold.</p>"
        '<div class="scroll" role="region" tabindex="0" aria-label="Lies">'
        f"<table><tbody>{rows}</tbody></table></div></section>"
    )


def _tricks(audit: Audit) -> str:
    rows = "".join(
        f'<tr><th scope="row">{trick.name}</th><td>{shown(audit.cheated[trick.name], NEVER_FAR)}</td>'
        f"<td>{'yes' if audit.expects.counts(trick) else 'no, it lies about something else'}</td></tr>"
        for trick in TRICKS
    )
    return (
        '<section><h2>Worthless clips that score as high as the truth</h2><p class="muted">Share of clips where '
        "a short search found such a clip.</p><table><thead><tr><th>trick</th><th>share of clips</th>"
        f"<th>counts against this critic</th></tr></thead><tbody>{rows}</tbody></table></section>"
    )


def _emphasised(audit: Audit, lie: str, text: str) -> str:
    return f"<b>{text}</b>" if lie.partition("@")[0] in audit.expects.lies else text


def _examples(audit: Audit) -> str:
    """For every trick, the clip on which its rubbish scores best."""
    figures = []
    for trick in TRICKS:
        of_trick = [e for e in audit.examples if e[2].trick is trick and isfinite(e[2].score)]
        if not of_trick:
            continue
        clip, true, found = max(of_trick, key=lambda e: e[2].score - e[1])
        strips = video.filmstrips(
            [clip.frames_F3hw, found.frames_F3hw], ["engine", "worthless"], EVERY, SCALE
        )
        scores = f"{number(found.score)}, the engine {number(true)}"
        text = escape(f"{trick.name}: {scores} ({clip.name}, {found.psnr:.1f} dB)")
        address = data_address("image/png", video.png(strips))
        figures.append(
            f'<figure class="wide"><div class="scroll" role="region" tabindex="0" aria-label="{text}">'
            f'<img alt="{text}" src="{address}"></div><figcaption>{text}</figcaption></figure>'
        )
    if not figures:
        return ""
    return (
        '<section><h2>Best worthless clip of each trick</h2><p class="muted">Top: the engine\'s frames. Bottom: '
        f"the search's result.</p>{''.join(figures)}</section>"
    )
