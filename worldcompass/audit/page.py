"""audit.html: one critic's audit with pictures."""

from __future__ import annotations

from html import escape

from worldcompass import video
from worldcompass.audit.measures import Share
from worldcompass.audit.run import Audit
from worldcompass.charts import number
from worldcompass.report.html import data_address, document

EVERY, SCALE = 3, 3  # frames between the pictures of a strip, and their size


def render(audit: Audit, command: str) -> str:
    """The whole page."""
    title = f"Audit of the critic {audit.critic}"
    sound = not audit.faults
    badge = (
        f'<span class="badge {"learning" if sound else "worse"}">{"sound" if sound else "not sound"}</span>'
    )
    faults = "".join(f"<li>{escape(fault)}</li>" for fault in audit.faults)
    parts = [
        f"<header><h1>{escape(title)}</h1><p>{badge} Expected to notice: {audit.expects}; {audit.clips} clips with "
        f"engine truth, on maps that nothing was trained on.</p>{f'<ul>{faults}</ul>' if faults else ''}</header>",
        _numbers(audit),
        _lies(audit),
        _examples(audit),
        f'<section><p class="muted">{escape(command)}</p></section>',
    ]
    return document(title, parts)


def _numbers(audit: Audit) -> str:
    calibration = "not a share" if audit.calibration is None else number(audit.calibration)
    rows = {
        "Rank correlation with the share of commands obeyed": number(audit.correlation["share obeyed"]),
        "Rank correlation with how little pictures are spoilt": number(audit.correlation["pictures spoilt"]),
        "Distance of score and share obeyed": calibration,
        "Spread of the score under grain that nobody sees": number(audit.tremor),
        "Drop under a full expected lie, in such spreads": number(audit.signal),
        "Rubbish that scores as high as the truth": shown(audit.cheated),
        "Abstentions": f"{audit.abstained:.0%}",
    }
    cells = "".join(f'<tr><th scope="row">{name}</th><td>{value}</td></tr>' for name, value in rows.items())
    return f"<section><h2>Agreement with the truth</h2><table><tbody>{cells}</tbody></table></section>"


def _lies(audit: Audit) -> str:
    rows = "".join(
        f'<tr><th scope="row">{escape(name.replace("@", ", strength "))}</th>'
        f'<td class="{"good" if value.low > 0.5 else "bad"}"><b>{shown(value)}</b></td></tr>'
        for name, value in audit.punished.items()
    )
    return (
        '<section><h2>Lies</h2><p class="muted">How often the spoilt clip scores below the true one, with 95% '
        'intervals; 50% is chance.</p><div class="scroll" role="region" tabindex="0" aria-label="Lies">'
        f"<table><tbody>{rows}</tbody></table></div></section>"
    )


def _examples(audit: Audit) -> str:
    figures = []
    for clip, true, found in sorted(audit.examples, key=lambda e: e[1] - e[2].score)[:4]:
        strips = video.filmstrips([clip.frames_F3hw, found.frames_F3hw], ["engine", "rubbish"], EVERY, SCALE)
        said = f"{clip.name}: engine {number(true)}, rubbish {number(found.score)} at {found.psnr:.1f} dB"
        address = data_address("image/png", video.png(strips))
        figures.append(
            f'<figure class="wide"><div class="scroll" role="region" tabindex="0" aria-label="{escape(said)}">'
            f'<img alt="{escape(said)}" src="{address}"></div><figcaption>{escape(said)}</figcaption></figure>'
        )
    if not figures:
        return ""
    return (
        '<section><h2>Rubbish that was found</h2><p class="muted">The best of a short search through textures that '
        f"slide, zoom and change colour; none of it shows the world.</p>{''.join(figures)}</section>"
    )


def shown(value: Share) -> str:
    """A share in percent with its interval."""
    if not value.n:
        return "never scored"
    low, mean, high = (round(100 * x) for x in (value.low, value.mean, value.high))
    return f"{mean}% [{low}, {high}]"
