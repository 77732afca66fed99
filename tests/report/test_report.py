"""The page of a run: verdict, completeness, tolerance of unfinished runs, refusal of malformed ones."""

import json
import math
import re
from dataclasses import replace
from html import escape
from html.parser import HTMLParser

import numpy as np
import pytest
from report_runs import MEASURES, both_ways, entry, make_results, make_run

from worldcompass import cli
from worldcompass.doctor import diagnose, read_record
from worldcompass.errors import UserError
from worldcompass.media import charts, video
from worldcompass.report import runs, write_comparison, write_report
from worldcompass.runs.results import Results
from worldcompass.statistics import Estimate, number


class Page(HTMLParser):
    """Collects tags and the addresses they ask for."""

    VOID = ("meta", "link", "img", "input", "br", "rect", "path", "line", "circle")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href", "poster", "srcset")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> str:
    return write_report(make_run(tmp_path_factory.mktemp("run"))).read_text()


def test_headline_says_the_result_in_plain_words(page):
    expected = (
        "Combined actions followed: 24.1% → 41.3% (engine 88.0%); 27.0% of the gap closed"
        " (95% interval 18.0% to 36.0%)."
    )
    assert expected in page
    assert '<span class="badge learning">learning</span>' in page


def test_advice_names_no_recipe_of_one_world(page):
    advice = page.split("What to do next")[1].split("</section>")[0]
    assert "worldcompass train --list" in advice and "doom" not in advice


def test_headline_says_that_a_gap_is_not_resolved():
    """In older files too, which hold a share of any gap."""
    found = Results.from_json(make_results()).evaluation
    base = {"combined": {"judge_accuracy": Estimate(0.241, 0.1, 0.9, 24)}}
    found = replace(found, base=base, gap_closed={"combined": Estimate(0.88, -6.8, 6.25, 24)})
    assert runs.headline(found, "combined").endswith("(engine 88.0%); the gap is not resolved.")


def test_page_is_self_contained_and_well_formed(page):
    parsed = Page(page)
    assert not parsed.open
    assert parsed.addresses and all(address.startswith("data:") for address in parsed.addresses)
    assert not re.search(r"@import|url\(|https?://", page)
    assert {"video", "img", "svg", "table"} <= set(parsed.tags)


def test_every_numeric_series_has_a_chart(page):
    for name in ("rewards/interaction/mean", "rewards/quality/mean", "loss", "seconds/update", "judge/mean"):
        assert f"<figcaption>{name}</figcaption>" in page
    assert "judge/values" not in page
    assert "<figcaption>rewards/quality/valid" not in page
    assert "rewards/quality/valid 1" in page.split("Constant: ")[1]
    assert page.index("rewards/quality/mean</figcaption>") < page.index("loss</figcaption>")


def test_content_is_escaped(page):
    assert "<script>alert" not in page and "&lt;script&gt;alert" in page


def test_every_table_cell_is_filled(page):
    assert page.count("<table>") == 2
    assert page.count('<th scope="row">') == 2 * len(MEASURES) + 2 * 9
    assert '<span class="muted">–</span>' not in page
    assert "1,840" in page and "7,920" in page


@pytest.mark.parametrize(
    ("difference", "expected"),
    [(0.1, "learning"), (0.005, "undecided"), (-0.005, "undecided"), (-0.1, "worse")],
)
def test_verdict_follows_the_paired_interval(difference, expected, tmp_path):
    assert runs.verdict(runs.load_run(make_run(tmp_path, difference))) == expected


@pytest.mark.parametrize(
    ("combined", "basic", "quality", "expected"),
    [
        (0.0, 0.1, 0.0, "learning"),  # basic actions count as combined ones do
        (0.1, -0.1, 0.0, "mixed"),
        (0.0, -0.1, 0.0, "worse"),
        (0.1, 0.0, -0.1, "mixed"),
    ],
)
def test_the_page_says_what_the_doctor_says(combined, basic, quality, expected, tmp_path):
    """One verdict, whether the folder holds training steps or the results alone."""
    results = make_results()
    results["difference"] = {
        kind: {"judge_accuracy": entry(change, 0.01), "quality": entry(quality, 0.01)}
        for kind, change in (("combined", combined), ("basic", basic))
    }
    (tmp_path / "results.json").write_text(json.dumps(results))
    alone = runs.load_run(tmp_path)
    steps = [{"step": i, "rewards": {"a": {"mean": 0.5 - i % 2, "std": 0.1}}} for i in range(1, 9)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in steps))
    said = diagnose(read_record(tmp_path))
    assert runs.verdict(alone) == runs.verdict(runs.load_run(tmp_path)) == said.state == expected
    text = write_report(tmp_path).read_text()
    assert f'<span class="badge {expected}">{expected}</span> {escape(said.answer)}' in text
    assert f"<strong>{escape(said.answer)}</strong>" in text


def test_actions_have_a_map_of_81_cells_for_each_side(page):
    maps = re.findall(r'<table class="map".*?</table>', page)
    assert [m.count("<td") for m in maps] == [81, 81]
    assert 'title="4 of 16 latents" style="--share:0.250">25<small>4/16</small></td>' in maps[0]
    assert 'title="10 of 16 latents" style="--share:0.625">62<small>10/16</small></td>' in maps[1]


def test_scores_are_shown_by_depth_with_intervals_and_a_dot_where_the_difference_is_sure(page, tmp_path):
    """Two measures of combined actions were stored: engine, base and trained each have a band and a line."""
    section = page.split("<h2>How deep it holds</h2>")[1].split("</section>")[0]
    assert section.count("<figure>") == 2 and section.count('<polygon class="band"') == 6
    assert (
        "by chunk: engine from 90.0% to 90.0%; base from 50.0% to 10.0%; trained from 50.0% to 27.2%"
        in section
    )
    trained = section.split('<g class="trained">')[1].split("</g>")[0]
    assert trained.count('<circle class="dot"') == 2, "no difference in the first of three chunks"
    assert '<circle class="dot"' not in section.split('<g class="base">')[1].split("</g>")[0]
    runs = [make_run(tmp_path / "a"), make_run(tmp_path / "b", difference=-0.1)]
    compared = write_comparison(runs, tmp_path / "c.html").read_text()
    assert not Page(compared).open
    section = compared.split("<h2>How deep it holds</h2>")[1].split("</section>")[0]
    assert '<b class="base">base</b><b class="run0">a</b><b class="run1">b</b>' in section
    assert "base from 50.0% to 10.0%; a from 50.0% to 27.2%; b from 50.0% to 0.0%" in section


def test_curves_by_depth_of_older_runs_have_no_band_and_of_one_chunk_no_chart(tmp_path):
    results = make_results()
    results["per_depth"] = {"base": {"combined": {"quality": [0.5, 0.25], "sharpness": [0.5]}}}
    (make_run(tmp_path) / "results.json").write_text(json.dumps(results))
    section = write_report(tmp_path).read_text().split("<h2>How deep it holds</h2>")[1].split("</section>")[0]
    assert section.count("<figure>") == 1 and "base from 0.5 to 0.25" in section
    assert "polygon" not in section and "circle" not in section
    results["per_depth"] |= {"trained": {"combined": {"quality": [], "sharpness": []}}}
    results["per_depth"]["base"]["combined"].pop("quality")
    (tmp_path / "results.json").write_text(json.dumps(results))
    assert "How deep it holds" not in write_report(tmp_path).read_text()


def test_filmstrips_are_the_first_and_the_widest_part(page, tmp_path):
    """A viewer looks before reading numbers; a run without filmstrips has no empty section."""
    titles = re.findall(r"<h2>([^<]*)</h2>", page)
    assert titles[:3] == ["Filmstrips", "Before and after", "Scores"]
    assert '<section class="strips">' in page and ".strips{width:min(96vw" in page
    bare = make_run(tmp_path)
    for path in (bare / "filmstrips").iterdir():
        path.unlink()
    assert "Filmstrips" not in write_report(bare).read_text()


def test_every_table_says_its_way_of_walking_and_counts_stand_beside_percentages(tmp_path):
    (make_run(tmp_path) / "results.json").write_text(json.dumps(both_ways()))
    text = write_report(tmp_path).read_text()
    assert not Page(text).open
    titles = re.findall(r"<h3>((?:Combined|Basic) actions, [^<]*)</h3>", text)
    rollout, play = (
        "rollout (chunks of 4 latents, 8 denoising steps)",
        "play (chunks of 1 latent, 4 denoising steps)",
    )
    assert titles == [f"{kind} actions, {way}" for way in (rollout, play) for kind in ("Combined", "Basic")]
    assert "<b>24.1%</b><small>591 of 744</small><small>21.1% to 27.1%</small>" in text
    assert "Combined actions followed: 24.1%, 591 of 744 → 41.3% (engine 88.0%)" in text
    assert "Combined actions followed in the way play: 24.1%, 61 of 72 → 32.7%, 65 of 72" in text
    assert f"Walk in it: <code>worldcompass play --after {tmp_path}</code>" in text
    write_comparison([tmp_path, make_run(tmp_path / "old")], tmp_path / "c.html")
    compared = re.findall(r"<h2>(\w+ actions, \w+)</h2>", (tmp_path / "c.html").read_text())
    assert compared == [
        f"{kind} actions, {way}" for way in ("rollout", "play") for kind in ("Combined", "Basic")
    ]


def test_looks_during_training_are_behind_a_slider(tmp_path):
    make_run(tmp_path)
    frames = np.full((24, 3, 48, 64), 90, np.uint8)
    for step in (1, 10):
        video.write_mp4(tmp_path / "samples" / f"step_{step:06d}.mp4", frames, 15)
    text = write_report(tmp_path).read_text()
    looks = text.split('<div id="looks">')[1].split("</script>")[0]
    assert looks.count("<figure") == 2 and '["step 1", "step 10"]' in looks
    assert not Page(text).open


def test_runs_are_compared_on_one_page(tmp_path):
    make_run(tmp_path / "a" / "demo")
    make_run(tmp_path / "b" / "demo", difference=-0.1)
    (tmp_path / "b" / "demo" / "config.json").write_text(json.dumps({"seed": 1, "lr": 0.1}))
    text = write_comparison(
        [tmp_path / "a" / "demo", tmp_path / "b" / "demo"], tmp_path / "c.html"
    ).read_text()
    assert not Page(text).open
    assert ">a/demo<" in text and ">b/demo<" in text
    assert text.count('class="badge') == 2 and "badge learning" in text and "badge worse" in text
    assert "+17.2%" in text and "−10.0%" in text
    assert '<g class="run0">' in text and '<g class="run1">' in text
    assert '<th scope="row">seed</th><td>0</td><td>1</td>' in text
    assert '<th scope="row">lr</th><td>not set</td><td>0.1</td>' in text
    bars = re.findall(r'<g class="(\w+)"><text[^>]*>[^<]*</text><rect class="bar"', text)
    assert bars == 2 * ["base", "run0", "run1"]
    assert (
        "rewards/interaction/mean</figcaption>" in text
        and "judge/mean</figcaption>" in text
        and "rewards/quality/valid" not in text
    )
    maps = re.findall(r'<table class="map".*?</table>', text)
    assert [m.count("<td") for m in maps] == [81, 81, 81]  # the base, and every run
    strips = re.findall(r"<figcaption>(\w+/demo: combined 01)</figcaption>", text)
    assert strips == ["a/demo: combined 01", "b/demo: combined 01"]


def test_runs_that_do_not_compare_are_refused(tmp_path, capsys):
    first, second = make_run(tmp_path / "a"), make_run(tmp_path / "b")
    assert cli.main(["report", str(first), str(first), "--out", str(tmp_path / "c.html")]) == 2
    assert "named twice" in capsys.readouterr().err
    results = make_results() | {"scenarios_hash": "0" * 64}
    (second / "results.json").write_text(json.dumps(results))
    assert cli.main(["report", str(first), str(second), "--out", str(tmp_path / "c.html")]) == 2
    assert "different scenarios" in capsys.readouterr().err
    assert not (tmp_path / "c.html").exists()


def test_the_page_of_one_run_goes_where_it_is_asked_for(tmp_path):
    run, out = make_run(tmp_path / "run"), tmp_path / "pages" / "run.html"
    assert cli.main(["report", str(run), "--out", str(out)]) == 0
    assert out.is_file() and not (run / "report.html").exists()


def test_unfinished_runs_have_a_page(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "rewards": {}, "loss": 1.5}\n{"step": 2, "lo')
    text = write_report(tmp_path).read_text()
    assert "unfinished" in text and "--resume" in text and "1 training steps" in text


def test_a_run_of_a_world_without_an_evaluation_can_be_complete(tmp_path):
    rows = "".join(f'{{"step": {step}, "rewards": {{}}, "loss": 1.5}}\n' for step in (1, 2))
    (tmp_path / "metrics.jsonl").write_text(rows)
    (tmp_path / "config.json").write_text('{"version": 2, "steps": 2}')
    text = write_report(tmp_path).read_text()
    assert "unfinished" not in text and "--resume" not in text and "All steps are done" in text
    (tmp_path / "evaluation_base.json").write_text("{}")  # a second one comes after the steps
    assert "unfinished" in write_report(tmp_path).read_text()


def test_partial_results_are_tolerated(tmp_path):
    results = make_results()
    for key in ("trained", "difference", "gap_closed", "forward_passes", "seconds"):
        del results[key]
    results["base"]["combined"]["quality"] = {"mean": None}
    (tmp_path / "results.json").write_text(json.dumps(results))
    text = write_report(tmp_path).read_text()
    assert "Combined actions followed: 24.1% → –" in text


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (None, "", "expected results.json or metrics.jsonl"),
        ("results.json", "{", "results.json is not a run's results: it is not valid JSON"),
        ("results.json", "[1]", "one JSON object"),
        ("results.json", '{"schema": 99}', "schema 99, expected 2"),
        ("results.json", b"\xff\xfe\x00", "not valid JSON"),
        ("metrics.jsonl", '{"step": 1, "rewards": {}}\nnonsense\n{"step": 2, "rewards": {}}\n', "line 2"),
        ("metrics.jsonl", "[1]\n", "one JSON object on each line"),
    ],
)
def test_malformed_runs_are_refused_in_one_sentence(tmp_path, name, content, message):
    if name:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=re.escape(message)):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_missing_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match="no such folder"):
        write_report(tmp_path / "absent")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (1234.5, "1234"),
        (0.12345, "0.123"),
        (-0.5, "−0.5"),
        (1e-9, "1e−9"),
        (-1e-9, "−1e−9"),
        (100, "100"),
        (math.nan, "–"),
    ],
)
def test_numbers_are_short(value, text):
    assert number(value).replace("1.0e−9", "1e−9") == text


def test_charts_survive_odd_series():
    assert "no finite value" in charts.line_chart("x", [0, 1], [math.nan, math.inf])
    assert "circle" in charts.line_chart("x", [0], [3.0])
    assert "nan" not in charts.line_chart("x", [0, 1, 2], [5.0, math.nan, 5.0])
    long = charts.line_chart("x", list(range(5000)), [float(i) for i in range(5000)])
    assert len(long) < 20_000


def test_long_names_of_runs_fit_beside_their_bars():
    for name in ("demo", "a_run_with_a_long_name"):
        chart = charts.interval_chart("x", [charts.Bar(name, Estimate(0.5, 0.4, 0.6), "run0")])
        at, left = (
            float(re.search(rule, chart)[1])
            for rule in (r"<g[^>]*><text[^>]*x=\"([^\"]+)", r'rect[^>]* x="([^"]+)')
        )
        assert len(name) * 7 < at < left
