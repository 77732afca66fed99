"""The pages in a real browser, with real keys, on the embedded world. Needs Chromium and Playwright."""

import base64
import importlib.util
import itertools
import re
import shutil
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the player needs worldcompass[web]")
if importlib.util.find_spec("playwright") is None:
    pytest.skip("browser tests need playwright", allow_module_level=True)

from player_server import running
from report_runs import make_run

from worldcompass.errors import UserError
from worldcompass.player.ballot import Ballot
from worldcompass.player.panes import WorldPane
from worldcompass.player.recording import Shelf
from worldcompass.player.session import Shared
from worldcompass.player.starts import Starts
from worldcompass.player.votes import read_votes
from worldcompass.report import write_comparison, write_report
from worldcompass.worlds.doom.player import EnginePane, doom_starts
from worldcompass.worlds.doom.world import load_doom_world
from worldcompass.worlds.hands.player import EnginePane as HandsEnginePane
from worldcompass.worlds.hands.player import hands_fittings, hands_starts
from worldcompass.worlds.hands.world import load_hands_world

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
START = Path(__file__).parents[2] / "docs" / "images" / "start.png"
PUSH_LEFT = "right+close-3, right-1, down-3, left-5"  # what the script of the first scene does
FPS = 48.0  # of the walks, twice as fast as a user's
PATIENCE = 120_000  # milliseconds; a busy machine is slow, not wrong
SLOW = """const quick = createImageBitmap;
createImageBitmap = async picture => { await new Promise(go => setTimeout(go, 100)); return quick(picture); };"""
PNGS = """() => [...document.querySelectorAll("canvas")].map(c => c.toDataURL().split(",")[1])"""


def expect(found):
    """What is expected of an element, with patience."""
    from playwright import sync_api  # which takes a second, in every process that collects tests

    sync_api.expect.set_options(timeout=PATIENCE)
    return sync_api.expect(found)


@pytest.fixture(scope="module")
def world():
    return load_doom_world()


@pytest.fixture(scope="module")
def starts():
    """Rooms: optical flow needs texture everywhere, and open ground has a plain sky."""
    found = doom_starts()
    yield Starts(tuple(itertools.islice((s for s in found if s.title.startswith("my way home")), 2)))
    found.close()


@pytest.fixture(scope="module")
def address(world, starts):
    panes = (WorldPane("Before", world, 1), EnginePane("Engine"))
    with running(Shared(panes, starts, Shelf(), FPS)) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def chromium():
    from playwright import sync_api

    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium, address):
    """Opens pages, each in a context of its own."""
    contexts = []

    def open_page(link="", script="", **options):
        contexts.append(chromium.new_context(viewport={"width": 1100, "height": 800}, **options))
        page = contexts[-1].new_page()
        page.add_init_script(script)
        page.set_default_timeout(PATIENCE)
        page.faults = []
        page.on("pageerror", lambda error: page.faults.append(str(error)))
        page.goto(address + link)
        walked(page, 0 if not link else None)
        return page

    yield open_page
    for context in contexts:
        assert [fault for page in context.pages for fault in page.faults] == []
        context.close()


def walked(page, latents=None):
    """Wait until the page says that so many latents were walked; with None, until it says anything."""
    text = "latents" if latents is None else f"{latents} latents"
    expect(page.locator("#walked")).to_contain_text(text)


def picture(png):
    """uint8 (48, 64, 3) of what a canvas shows."""
    shown = cv2.imdecode(np.frombuffer(base64.b64decode(png), np.uint8), cv2.IMREAD_COLOR)
    assert shown.shape == (48, 64, 3)
    return cv2.cvtColor(shown, cv2.COLOR_BGR2RGB)


def at_rest(page):
    """The pictures when they and the count of latents no longer change for a second: a busy server is as slow."""
    before, same = (page.inner_text("#walked"), page.evaluate(PNGS)), 0
    while same < 7:
        time.sleep(0.15)  # more than the 4 frames of a latent last
        now = (page.inner_text("#walked"), page.evaluate(PNGS))
        same = same + 1 if now == before else 0
        before = now
    return [picture(png) for png in before[1]]


def tap(page, key, latents):
    """Hold a key until so many latents were walked."""
    page.keyboard.down(key)
    deadline = time.monotonic() + PATIENCE / 1000
    while int(page.inner_text("#walked").split()[0]) < latents and time.monotonic() < deadline:
        time.sleep(0.02)
    page.keyboard.up(key)
    return at_rest(page)


def shift(before, after):
    """Median horizontal optical flow in pixels; + is to the right."""
    grey = [cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (256, 192)) for image in (before, after)]
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(*grey, None)
    return float(np.median(flow[..., 0])) / 4


def test_keys_change_both_panes_and_turning_left_moves_the_picture_right(visit):
    page = visit()
    start = at_rest(page)
    page.keyboard.press("ArrowLeft")  # a short tap is one latent: 8 degrees, 4.5 pixels in the middle
    walked(page, 1)
    turned = at_rest(page)
    assert [shift(a, b) for a, b in zip(start, turned, strict=True)] == [pytest.approx(4.5, abs=2)] * 2
    page.keyboard.press("q")
    walked(page, 0)
    assert all(np.array_equal(a, b) for a, b in zip(start, at_rest(page), strict=True)), "reset"
    moved = tap(page, "w", 2)
    assert all(not np.array_equal(a, b) for a, b in zip(start, moved, strict=True))


def test_a_link_replays_the_walk_and_a_reload_or_lost_connection_keeps_it(visit):
    page = visit()
    walk = tap(page, "d", 2)
    path = page.input_value("#path")
    assert path.startswith("d-")
    page.reload()
    walked(page, path.removeprefix("d-"))
    assert all(np.array_equal(a, b) for a, b in zip(walk, at_rest(page), strict=True))
    page.evaluate("socket.close()")
    expect(page.locator("#link")).to_have_text("Reconnecting")
    expect(page.locator("#link")).to_have_text("Live")
    assert page.input_value("#path") == path
    start = page.evaluate("state.start")
    other = visit(f"/#start={start}&seed=0&path={path}")
    walked(other, path.removeprefix("d-"))
    assert all(np.array_equal(a, b) for a, b in zip(walk, at_rest(other), strict=True))
    third = visit()
    assert third.input_value("#path") == ""  # its own world
    odd = visit(f"/#start={start}&seed=1.5&path={path}")
    expect(odd.locator("#note")).to_contain_text(
        "The seed of this link is no whole number from 0 to 2147483647"
    )
    walked(odd, path.removeprefix("d-"))
    assert odd.input_value("#seed") == "0"
    page.evaluate(f"location.hash = 'start={start}&seed=x'")  # a link that is opened in the same page
    expect(page.locator("#note")).to_contain_text("The seed of this link is no whole number")


def test_a_server_that_stops_is_said_and_so_is_its_return(visit):
    page, away = visit(), True

    def route(socket):
        if away:
            socket.close()
        else:
            socket.connect_to_server()

    page.route_web_socket(re.compile("/walk$"), route)
    page.evaluate("socket.close()")
    expect(page.locator("#note")).to_contain_text("The server does not answer. Is it still running?")
    away = False
    expect(page.locator("#link")).to_have_text("Live")
    expect(page.locator("#note")).to_have_text("")


def test_a_page_that_draws_too_slowly_skips_pictures_but_not_the_last(visit):
    page = visit()
    page.fill("#path", "d-5")  # the last of its 20 pictures differ
    page.locator("#walk button").click()
    walked(page, 5)
    walk = at_rest(page)
    slow = visit(f"/#start={page.evaluate('state.start')}&path=d-5", SLOW)  # 10 of 48 pictures a second
    walked(slow, 5)
    assert all(np.array_equal(a, b) for a, b in zip(walk, at_rest(slow), strict=True))


def test_record_rewind_and_the_gallery_by_keyboard_alone(visit, tmp_path):
    page = visit()
    page.locator("h1").click()
    page.keyboard.press("r")
    expect(page.locator("#record")).to_have_attribute("aria-pressed", "true")
    tap(page, "s", 2)
    page.keyboard.press("r")
    page.locator("#clip").wait_for()
    with page.expect_download() as download:
        page.locator("#mp4").press("Enter")
    assert Path(download.value.path()).read_bytes()[4:8] == b"ftyp"
    at_rest(page)
    for _ in range(-(-int(page.inner_text("#walked").split()[0]) // 4)):  # 4 latents a time
        page.keyboard.press("z")
    walked(page, 0)
    page.locator(".thumb").nth(1).focus()
    page.keyboard.press("Enter")
    expect(page.locator(".thumb").nth(1)).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("?")
    expect(page.locator("#keys")).to_be_visible()


def test_touch_and_a_gamepad_walk_and_the_phone_page_does_not_scroll_sideways(visit):
    page = visit(has_touch=True)
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    box = page.locator('[data-key="up"]').bounding_box()
    page.mouse.move(box["x"] + 10, box["y"] + 10)
    page.mouse.down()
    expect(page.locator("#walked")).not_to_contain_text("0 latents")
    page.mouse.up()
    assert page.input_value("#path").startswith("up-")
    page.evaluate("""() => {
      const buttons = Array.from({length: 17}, () => ({pressed: false}));
      navigator.getGamepads = () => [{axes: [0, -1, 1, 0], buttons}];
      dispatchEvent(new Event("gamepadconnected"));
    }""")
    expect(page.locator("#path")).to_have_value(
        re.compile(r"^up-\d+, (none-\d+, )?w\+right-\d"), timeout=PATIENCE
    )


def path_becomes(page, pattern):
    expect(page.locator("#path")).to_have_value(re.compile(pattern))


def test_the_mouse_looks_around_after_a_click_on_a_picture_until_help_opens(visit):
    page = visit()
    start = at_rest(page)
    page.mouse.move(300, 300)
    page.mouse.move(500, 300)
    page.locator("canvas").first.click()
    expect(page.locator("#mouse")).to_have_attribute("aria-pressed", "true")
    page.mouse.move(400, 300)  # where the mouse was before is not known exactly: forget what this turned
    at_rest(page)
    page.keyboard.press("q")
    walked(page, 0)
    page.mouse.move(320, 300)  # 80 pixels are one latent of turning
    path_becomes(page, "left")
    turned = at_rest(page)
    assert page.input_value("#path") == "left-1" and shift(start[1], turned[1]) > 2
    page.mouse.move(320, 210)
    path_becomes(page, "^left-1, up-1$")
    page.keyboard.down("w")
    page.mouse.move(410, 210)
    path_becomes(page, r"w\+right-1")
    page.keyboard.up("w")
    page.keyboard.press("?")
    expect(page.locator("#keys-mouse")).to_contain_text("Look around with the mouse")
    expect(page.locator("#mouse")).to_have_attribute("aria-pressed", "false")
    page.locator("#keys-close").click()
    path = at_rest(page) and page.input_value("#path")
    page.mouse.move(10, 10)
    assert at_rest(page) and page.input_value("#path") == path, "the mouse is given back"


def test_full_screen_shows_larger_pictures_and_the_keys_and_nothing_else(visit):
    page = visit()
    before = page.locator(".screen").first.bounding_box()
    page.keyboard.press("f")
    expect(page.locator("#full")).to_have_attribute("aria-pressed", "true")
    for part, shown in (
        ("header", False),
        ("#groups", False),
        ("#walk", False),
        (".pad", True),
        ("#full", True),
    ):
        assert page.locator(part).first.is_visible() == shown, part
    after = page.locator(".screen").first.bounding_box()
    assert after["width"] >= before["width"] and after["y"] >= 0
    tap(page, "w", 1)
    page.locator("#full").click()
    expect(page.locator("#full")).to_have_attribute("aria-pressed", "false")
    expect(page.locator("header")).to_be_visible()


def test_mistakes_are_a_sentence_on_the_page(visit, tmp_path):
    page = visit()
    page.fill("#path", "jump-3")
    page.locator("#walk button").click()
    expect(page.locator("#note")).to_contain_text("cannot read 'jump-3'")
    (tmp_path / "a.png").write_bytes(b"no picture")
    page.set_input_files("#file", tmp_path / "a.png")
    expect(page.locator("#note")).to_contain_text("choose a PNG or JPEG")
    page.keyboard.press("k")
    expect(page.locator("#note")).to_have_text("k does nothing here: press ? for the keys.")


def test_a_link_with_a_path_that_cannot_be_walked_leads_to_its_start(visit, starts):
    page = visit(f"/#start={starts.all()[1].id}&path=jump-3")
    expect(page.locator("#note")).to_contain_text("cannot read 'jump-3'")
    expect(page.locator(".thumb").nth(1)).to_have_attribute("aria-pressed", "true")
    walked(page, 0)


def test_a_newcomer_reads_what_the_pictures_are_and_what_becomes_of_other_ones(visit):
    page = visit()
    expect(page.locator("#hold")).to_contain_text("A neural network imagines the pictures.")
    page.set_input_files("#file", START)
    expect(page.locator("#note")).to_contain_text("knows only what it was trained on")


def test_the_page_of_the_interface_spells_out_lists_that_may_be_missing(visit, address):
    page = visit()
    page.goto(f"{address}/docs")
    expect(page.locator("#paths")).to_contain_text("?own= list of string or null")


def test_a_task_of_the_hands_world_is_chosen_and_the_page_says_in_which_pane_it_was_done(chromium):
    starts = Starts(tuple(itertools.islice(hands_starts(), 1)))
    try:
        engine = HandsEnginePane.start()
    except UserError as why:
        pytest.skip(str(why))
    panes = (WorldPane("World", load_hands_world(), 1), engine)
    with running(Shared(panes, starts, Shelf(), 200.0, hands_fittings())) as port:
        page = chromium.new_page()
        page.set_default_timeout(PATIENCE)
        page.goto(f"http://127.0.0.1:{port}")
        expect(page.locator("#goal")).to_have_value("pick up the navy cup")
        expect(page.locator(".done")).to_have_text(["not yet", "not yet"])
        expect(page.locator("#hold")).to_contain_text("A neural network imagines the pictures.")
        page.select_option("#goal", label="push the navy cup to the left")
        assert page.locator('.pad [data-key="reach"]').inner_text() == "W\nreach"
        page.fill("#path", PUSH_LEFT)
        page.locator("#walk button").click()
        expect(page.locator(".done").nth(1)).to_have_text(re.compile(r"✓ done, step \d+"))
        expect(page.locator("#note")).to_contain_text("Engine: push the navy cup to the left. Done!")
        page.select_option("#goal", label="none, just play")
        expect(page.locator(".done")).to_have_text(["", ""])
        page.close()


@pytest.fixture(scope="module")
def serious():
    """What axe (WCAG and good practice) finds on a page that is serious or worse, in words."""
    axe = importlib.util.find_spec("axe_playwright_python")
    if axe is None or axe.origin is None:
        pytest.skip("the accessibility audit needs axe-playwright-python")
    code = (Path(axe.origin).parent / "axe.min.js").read_text()

    def audit(page):
        page.evaluate(code)
        found = page.evaluate("axe.run({resultTypes: ['violations']})")["violations"]
        return [
            f"{finding['id']}: {node['html']}"
            for finding in found
            if finding["impact"] in ("serious", "critical")
            for node in finding["nodes"]
        ]

    return audit


SCREENS = (("light", 1100), ("dark", 390))


@pytest.mark.parametrize(("scheme", "width"), SCREENS)
def test_the_player_passes_an_accessibility_audit(visit, serious, scheme, width):
    page = visit(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 844})
    assert serious(page) == []
    page.keyboard.press("?")
    assert serious(page) == []


def test_reports_pass_an_accessibility_audit_and_fit_a_phone(chromium, serious, tmp_path):
    runs = [make_run(tmp_path / name) for name in ("one", "two")]
    files = [write_report(runs[0]), write_comparison(runs, tmp_path / "both.html")]
    page = chromium.new_page()
    for file, (scheme, width) in itertools.product(files, SCREENS):
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size({"width": width, "height": 844})
        page.goto(file.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert serious(page) == [], (file.name, scheme, width)
        forward = page.locator("table.map tbody tr:nth-child(2) td:nth-of-type(1)")
        assert forward.all_inner_texts()[:2] == ["25\n4/16", "62\n10/16"]  # of 2 chunks together
        page.locator("#horizon").press("ArrowRight")
        expect(page.locator("#horizon-said")).to_have_text("chunk 1 of 2")
        assert forward.all_inner_texts()[:2] == ["38\n3/8", "75\n6/8"]
    page.close()


@pytest.fixture
def voting(chromium, world, starts, tmp_path):
    """A page that shows the first pair, and the file that votes go to."""
    worlds = tuple(WorldPane(name, world, 1) for name in ("Before", "After"))
    shared = Shared(worlds, starts, Shelf(), FPS)
    ballot = Ballot(shared, worlds, ("base", "trained"), tmp_path / "votes.jsonl", latents=2, control_share=0)
    with running(shared, votes=ballot) as port:
        page = chromium.new_page()
        page.set_default_timeout(PATIENCE)
        page.goto(f"http://127.0.0.1:{port}")
        expect(page.locator("#count")).to_have_text("0 voted so far")
        yield page, tmp_path / "votes.jsonl"
        page.close()


def test_a_vote_is_given_with_the_keyboard(voting):
    page, file = voting
    page.locator("input[name=follows][value=left]").press("Space")
    page.locator("input[name=looks][value=right]").press("Space")
    assert page.is_disabled("#send")  # the third question is open
    page.locator("input[name=place][value=tie]").press("Space")
    page.locator("#send").press("Enter")
    expect(page.locator("#count")).to_have_text("1 voted so far")
    expect(page.locator("input").first).to_be_focused()  # the keyboard continues with the next pair
    assert page.is_disabled("#send") and not page.locator(":checked").count()
    vote = read_votes(file)[0]
    assert vote.follows == vote.left and vote.looks not in (vote.left, "tie") and vote.place == "tie"


def test_while_the_next_pair_is_imagined_nothing_can_be_answered(voting):
    """What is on the screen then was answered already."""
    page, _ = voting
    page.route("**/vote/next", lambda route: None)  # never answered
    page.evaluate("void next()")
    expect(page.locator("#wait")).to_have_text("Imagining the next pair…")
    assert page.locator("input:enabled, button:enabled").count() == 0
    page.unroute_all(behavior="ignoreErrors")


def test_the_voting_page_passes_an_accessibility_audit_and_fits_a_phone(voting, serious):
    page, _ = voting
    for scheme, width in SCREENS:
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size({"width": width, "height": 844})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert serious(page) == [], (scheme, width)
