"""The feature browser's form in a real browser: search, keyboard, spelling, what is said, and who can read it."""

from __future__ import annotations

import base64

import numpy as np
import pytest

from dreamy_lens.features import parse
from tests.browser.formpage import SHAPES, FormPage

HOSTILE = "<img src=x onerror=\"document.title='hacked'\"><script>document.title='hacked'</script>"


@pytest.fixture
def form(page_for):
    """A function that opens a form in a page; an error in the view, or a request, is an error of the test."""

    def opened(scheme: str = "light", **changes) -> FormPage:
        return FormPage(page_for(scheme, 1100, 800, reduced_motion="reduce"), **changes)

    return opened


# Hook points.


def test_the_search_filters_as_it_is_typed(form):
    it = form()
    assert it.items() == ["▸ (model)", "▸ blocks.0", "▸ blocks.1", "▸ blocks.10"]
    search = it.page.get_by_label("search")
    search.fill("MLP post")
    assert it.items() == [f"{name} [position, 40]" for name in SHAPES if "mlp" in name]
    assert it.page.get_by_text("3 of 9 hook points").is_visible()
    search.fill("*hook_pattern")
    assert it.items() == ["blocks.0.attn.hook_pattern [4, position, position]"]
    search.fill("rot")
    assert it.items() == ["blocks.0.attn.hook_rot_q never reached"]
    search.fill("nothing like it [(")
    assert it.items() == [] and it.page.get_by_text("No hook point has all these words").is_visible()
    search.fill("")
    assert len(it.items()) == 4


def test_the_tree_is_used_with_the_keyboard_alone(form):
    it = form()
    keys = it.page.keyboard
    it.page.get_by_label("search").focus()
    keys.press("ArrowDown")
    assert it.focused == "▸ (model)"
    keys.press("End")
    assert it.focused == "▸ blocks.10"
    for key in ("Home", "ArrowDown", "ArrowRight"):
        keys.press(key)
    assert it.focused == "▾ blocks.0" and "hook_resid_post [position, 32]" in it.items()
    for key in ("ArrowRight", "ArrowDown", "ArrowRight", "ArrowRight", "ArrowDown", "Enter"):
        keys.press(key)
    assert it.focused == "✓ hook_z [position, 4, 8]" and it.expression == "blocks.0.attn.hook_z[-1, 0, 0]"
    assert it.page.get_by_role("treeitem", selected=True).count() == 1
    keys.press("ArrowLeft")
    assert it.focused == "▾ attn"
    keys.press("ArrowLeft")
    keys.press("ArrowLeft")
    keys.press(" ")
    assert it.items() == ["▸ (model)", "▸ blocks.0", "▸ blocks.1", "▸ blocks.10"]
    tabbable = it.page.locator("[role=treeitem][tabindex='0']")
    assert tabbable.count() == 1 and it.focused == "▸ blocks.0"


# Spelling.


def pick(it: FormPage, name: str) -> None:
    it.page.get_by_label("search").fill(name)
    it.page.get_by_role("treeitem").click()


@pytest.mark.parametrize(
    ("hook", "fill", "spelt"),
    [
        ("blocks.0.mlp.hook_post", {"unit": "17"}, "{}[-1, 17]"),
        ("blocks.0.mlp.hook_post", {"position": "2", "unit": "3"}, "{}[2, 3]"),
        ("blocks.0.mlp.hook_post", {"positions": "max", "unit": "17"}, "{}[..., 17].max()"),
        ("blocks.0.mlp.hook_post", {"positions": "mean"}, "{}[..., 0].mean()"),
        ("blocks.0.attn.hook_z", {"head": "3", "unit": "7"}, "{}[-1, 3, 7]"),
        ("blocks.0.attn.hook_pattern", {"head": "1", "key position": "2"}, "{}[1, -1, 2]"),
        ("hook_embed", {"unit or direction": "direction", "direction": "v.npy"}, '{}[-1] @ "v.npy"'),
        (
            "hook_embed",
            {"unit or direction": "direction", "direction": "a b.npy", "positions": "max"},
            '({} @ "a b.npy").max()',
        ),
        (
            "hook_embed",
            {"unit or direction": "direction", "standardised": True, "direction": "v.safetensors:w"},
            '{}[-1].standardised() @ "v.safetensors:w"',
        ),
        (
            "blocks.0.attn.hook_z",
            {"unit or direction": "direction", "head": "2", "direction": "v.npy"},
            '{}[-1, 2] @ "v.npy"',
        ),
    ],
)
def test_fields_spell_a_feature_for_every_shape(form, hook, fill, spelt):
    it = form()
    pick(it, hook)
    for label, value in fill.items():
        box = it.page.get_by_label(label, exact=True)
        if label in ("positions", "unit or direction"):
            box.select_option(value)
        elif value is True:
            box.check()
        else:
            box.fill(value)
    assert it.expression == spelt.format(hook)
    assert parse(it.expression).label
    # On a busy machine the pause between two fields can be long enough for a check of what stands there so far.
    it.page.wait_for_function("text => form.sent.some((m) => m.type === 'check' && m.text === text)", arg=it.expression)
    assert it.of("check")["text"] == it.expression


def test_a_number_that_the_shape_does_not_have_is_marked_while_it_is_typed(form):
    it = form()
    pick(it, "blocks.0.mlp.hook_post")
    box = it.page.get_by_label("unit", exact=True)
    for typed, invalid in (
        ("17", "false"),
        ("99999", "true"),
        ("-1", "true"),
        ("", "true"),
        ("1.5", "true"),
        ("3", "false"),
    ):
        box.fill(typed)
        assert box.get_attribute("aria-invalid") == invalid, typed
    box.press_sequentially("e")
    assert box.get_attribute("aria-invalid") == "true"


def test_numbers_are_a_direction(form):
    it = form()
    pick(it, "hook_embed")
    it.page.get_by_label("unit or direction").select_option("direction")
    it.page.get_by_label("direction", exact=True).fill("[1, -2.5, 3e-1]")
    numbers = base64.b64encode(np.array([1, -2.5, 0.3], dtype="<f4").tobytes()).decode()
    assert it.expression == f'hook_embed[-1] @ "data:float32,{numbers}"'


@pytest.mark.parametrize(
    ("short", "typed", "spelt"),
    [
        ("neuron", "L1.N7", "L1.N7"),
        ("logit of a token", '" the"', 'logit(" the")'),
        ("logit of a token", ' "', 'logit(" \\"")'),
        ("log-probability of a token", " naïve\t日", 'log_prob(" naïve\\t日")'),
    ],
)
def test_short_cuts(form, short, typed, spelt):
    it = form()
    it.page.locator("summary", has_text="Shortcuts").click()
    it.page.get_by_label(short, exact=True).fill(typed)
    it.page.get_by_label(f"Use {short}", exact=True).click()
    assert it.expression == spelt and parse(spelt)


def test_a_hook_point_that_needs_quotes_and_one_that_is_never_reached(form):
    it = form(hooks=[["odd.max", 'hook("odd.max")'], ["off", "off"]], shapes={"odd.max": ["position", 3], "off": None})
    pick(it, "odd.max")
    assert it.expression == 'hook("odd.max")[-1, 0]'
    pick(it, "off")
    assert it.page.get_by_text("never reaches this hook point").is_visible()


def test_shapes_that_come_later_are_shown_and_spelt(form):
    it = form(shapes=None)
    pick(it, "blocks.1.mlp.hook_post")
    assert it.expression == "" and it.page.get_by_text("Finding the shapes").is_visible()
    it.put(shapes=SHAPES)
    assert it.expression == "blocks.1.mlp.hook_post[-1, 0]"
    assert it.items() == ["✓ blocks.1.mlp.hook_post [position, 40]"]


# What is said.


def test_what_is_typed_is_checked_once_and_answered(form):
    it = form()
    box = it.page.get_by_label("feature", exact=True)
    # Typed in one step: on a busy machine the pause between two keys can be long enough for a check.
    box.evaluate(
        "(box, keys) => [...keys].forEach((key) => { box.value += key; box.dispatchEvent(new Event('input')); })",
        "L1.N7 +",
    )
    asked = it.of("check")
    assert [m["text"] for m in it.sent] == ["L1.N7 +"] and asked["typed"]["length"] == "12"
    it.tell(type="checked", id=asked["id"] - 1, ok=True, said="of something older", error="", python="")
    assert it.page.get_by_text("checking …").is_visible()
    it.tell(
        type="checked", id=asked["id"], ok=False, said="", error="The text ends.\n    L1.N7 +\n           ^", python=""
    )
    assert it.page.get_by_text("✗ The text ends.").is_visible()
    assert it.page.get_by_label("position of the error", exact=True).inner_text() == "L1.N7 +\n       ^"
    assert box.get_attribute("aria-invalid") == "true"
    described = box.get_attribute("aria-describedby")
    assert "The text ends." in it.page.locator(f"#{described}").inner_text()
    box.fill("L1.N7")
    asked = it.of("check", 2)
    python = "dl.dream('L1.N7', model, seeds=[0, 1])"
    it.tell(type="checked", id=asked["id"], ok=True, said="blocks.1", error="", python=python, count=2)
    assert it.page.get_by_text("✓ ok: blocks.1").is_visible() and box.get_attribute("aria-invalid") == "false"
    assert (
        it.page.get_by_text(python).is_visible() and it.page.get_by_role("button", name="Start 2 dreams").is_visible()
    )
    assert it.page.evaluate("form.state.expression") == "L1.N7"


def test_a_bad_setting_is_marked_wherever_it_stands(form):
    it = form(expression="L1.N7", typed={"search": "epo"})
    it.page.get_by_text("More settings").click()
    it.page.get_by_label("least λ").fill("x")
    it.page.get_by_text("More settings").click()
    # The form may have checked the expression that it opened with before.
    it.page.wait_for_function("form.sent.some((m) => m.typed?.lambda_min === 'x')")
    asked = it.of("check")
    assert asked["typed"]["lambda_min"] == "x"
    said = "lambda_min is 'x'; it must be a finite number, at least 0."
    it.tell(type="checked", id=asked["id"], ok=True, said="a", error="", python="", settings_error=said)
    assert it.page.get_by_text(said).is_visible() and it.page.get_by_label("least λ").is_visible()
    assert it.page.get_by_label("least λ").get_attribute("aria-invalid") == "true"
    assert it.page.get_by_label("iterations").get_attribute("aria-invalid") == "false"


def test_a_setting_that_may_be_automatic_is_chosen_from_a_list(form):
    it = form(expression="L1.N7", typed={"search": "epo", "share_prefixes": "no"})
    it.page.get_by_text("More settings").click()
    choice = it.page.get_by_label("prepend BOS")
    assert choice.input_value() == "" and it.page.get_by_label("share prefixes").input_value() == "no"
    assert choice.locator("option").all_inner_texts() == ["automatic", "yes", "no"]
    choice.select_option("yes")
    it.page.get_by_role("button", name="Start dreaming").click()
    typed = it.of("start")["typed"]
    assert typed["prepend_bos"] == "yes" and typed["share_prefixes"] == "no" and typed["keep_parents"] is False
    assert it.page.evaluate("form.state.typed").get("prepend_bos") == "yes"


def test_the_form_shows_the_settings_of_the_chosen_search(form):
    it = form(expression="L1.N7")
    page = it.page

    def box(label: str):
        return page.get_by_label(label, exact=True)

    choice = box("optimiser")
    assert choice.input_value() == "frontier" and box("parents").is_visible() and box("population").count() == 0
    choice.select_option("epo")
    assert box("population").is_visible() and box("parents").count() == 0
    assert box("children").input_value() == "32" and box("iterations").get_attribute("placeholder") == "300"
    box("iterations").fill("40")
    box("population").fill("5")
    page.get_by_text("More settings: λ, restarts").click()
    box("least λ").fill("0.5")
    choice.focus()
    choice.select_option("frontier")
    assert page.evaluate("document.activeElement.value") == "frontier"
    assert box("population").count() == 0 and box("least λ").count() == 0 and box("samples").is_visible()
    assert page.locator("summary", has_text="λ").count() == 0
    assert box("iterations").input_value() == "40" and box("children").input_value() == "256"
    box("children").fill("64")
    page.get_by_role("button", name="Start dreaming").click()
    typed = it.of("start")["typed"]
    assert typed["search"] == "frontier" and typed["iterations"] == "40" and typed["parents"] == "8"
    assert "population" not in typed and "lambda_min" not in typed
    choice.select_option("random")
    assert box("children").count() == 0 and box("prompts at once").input_value() == "64"
    choice.select_option("epo")
    assert [box(label).input_value() for label in ("population", "least λ", "children")] == ["5", "0.5", "64"]
    kept = page.evaluate("form.state.typed")
    again = form(expression="L1.N7", typed={**kept, "search": "frontier"})
    assert again.page.get_by_label("children", exact=True).input_value() == "64"
    assert again.page.get_by_label("population", exact=True).count() == 0


def test_start_and_load_send_what_is_typed(form):
    it = form(expression="L1.N7", typed={"iterations": "60", "round_trip": True})
    start = it.page.get_by_role("button", name="Start dreaming")
    start.click()
    start.dispatch_event("click")  # while it waits for an answer
    asked = it.of("start")
    assert [m["type"] for m in it.sent].count("start") == 1
    assert asked["text"] == "L1.N7" and asked["typed"]["iterations"] == "60" and asked["typed"]["round_trip"] is True
    it.tell(type="started", id=asked["id"], error="There is no unit 99.")
    assert it.page.get_by_text("✗ There is no unit 99.").is_visible()
    start.click()
    it.tell(type="started", id=it.of("start", 2)["id"], error="")
    assert it.page.get_by_text("the panel is below").is_visible()
    it.page.get_by_label("or a Hugging Face id or folder").fill("owner/name")
    it.page.get_by_role("button", name="Load").click()
    assert it.of("load")["name"] == "owner/name"
    it.put(loading="owner/name")
    assert it.page.get_by_text("loading owner/name …").is_visible()
    it.put(loading="", model_error="'owner/name' is no model.")
    assert it.page.get_by_text("'owner/name' is no model.").is_visible()
    it.page.get_by_label("loaded").select_option("embedded")
    assert it.of("load", 2)["name"] == "embedded"


def test_nothing_that_comes_from_elsewhere_is_markup(form):
    hooks = [[HOSTILE, f"hook({HOSTILE})"], [f"blocks.0.{HOSTILE}.x", "x"]]
    it = form(hooks=hooks, shapes={HOSTILE: ["position", HOSTILE]}, models=[HOSTILE], model=HOSTILE, about=HOSTILE)
    for item in it.page.get_by_role("treeitem").all():
        item.click()
    it.put(model_error=HOSTILE, loading=HOSTILE)
    it.page.get_by_label("feature", exact=True).fill(HOSTILE)
    asked = it.of("check")
    it.tell(type="checked", id=asked["id"], ok=False, error=f"{HOSTILE}\n    {HOSTILE}", settings_error=HOSTILE)
    it.tell(type="checked", id=asked["id"], ok=True, said=HOSTILE, python=HOSTILE, settings_error="")
    it.tell(type="started", id=0, error=HOSTILE)
    it.tell(type="notice", error=HOSTILE)
    assert it.page.locator("img, script").count() == 0 and it.page.title() == "form"


def test_a_view_that_goes_listens_no_more(form):
    it = form()
    assert it.page.evaluate("form.listening()") > 5
    it.page.evaluate("form.leave()")
    assert it.page.evaluate("form.listening()") == 0


# Who can read it.

_CONTRASTS = """() => {
  const light = (c) => c.map((v) => ((v /= 255), v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const found = [];
  for (const node of document.querySelectorAll(".dlb *")) {
    const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
    if (!(own || node.matches("input, select, textarea")) || !node.checkVisibility()) continue;
    let ground = node;
    while (ground && (parse(getComputedStyle(ground).backgroundColor)[3] ?? 1) === 0) ground = ground.parentElement;
    const [a, b] = [getComputedStyle(node).color, getComputedStyle(ground).backgroundColor]
      .map((c) => light(parse(c).slice(0, 3))).sort((x, y) => y - x);
    found.push([node.tagName + "." + node.className + " " + node.textContent.slice(0, 30), (a + 0.05) / (b + 0.05)]);
  }
  return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("jupyter", [None, "true", "false"])
def test_every_text_has_contrast_in_every_theme(form, scheme, jupyter):
    it = form(scheme, model_error="It is no model.", expression="L1.N7")
    if jupyter is not None:
        it.page.evaluate("(light) => document.body.setAttribute('data-jp-theme-light', light)", jupyter)
    for summary in it.page.locator("summary").all():
        summary.click()
    pick(it, "blocks.0.mlp.hook_post")
    asked = it.of("check")
    it.tell(
        type="checked", id=asked["id"], ok=False, error="It ends.\n    L1\n     ^", python="x", settings_error="No."
    )
    low = [(what, ratio) for what, ratio in it.page.evaluate(_CONTRASTS) if ratio < 4.5]
    assert not low
    it.tell(type="checked", id=asked["id"], ok=True, said="ok", python="dl.dream()", settings_error="")
    assert not [what for what, ratio in it.page.evaluate(_CONTRASTS) if ratio < 4.5]
    ground = it.page.evaluate("getComputedStyle(document.querySelector('.dlp')).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") == ((scheme if jupyter is None else jupyter) in ("light", "true"))


def test_everything_to_fill_in_has_a_name_and_ids_are_unique(form):
    it = form()
    pick(it, "blocks.0.attn.hook_z")
    it.page.get_by_label("unit or direction").select_option("direction")
    nameless = it.page.evaluate(
        "[...document.querySelectorAll('input, select, textarea')]"
        ".filter((n) => !n.labels.length).map((n) => n.outerHTML)"
    )
    assert not nameless
    missing = it.page.evaluate(
        "[...document.querySelectorAll('[aria-describedby]')].filter((n) => "
        "!document.getElementById(n.getAttribute('aria-describedby'))).length"
    )
    ids = it.page.evaluate("[...document.querySelectorAll('[id]')].map((n) => n.id)")
    assert not missing and len(set(ids)) == len(ids)


def test_a_narrow_page_has_nothing_beside_it(form):
    it = form()
    it.page.set_viewport_size({"width": 360, "height": 700})
    assert it.page.evaluate("document.documentElement.scrollWidth") <= 360


# Other units of the layer.


def picked(it) -> int:
    """Choose the neurons of a layer, and return the number of the check that the form asks for."""
    it.page.get_by_label("search").fill("blocks.0.mlp")
    it.page.get_by_role("treeitem").click()
    it.page.wait_for_function("form.sent.some((m) => m.type === 'check')")
    return it.page.evaluate("form.sent.filter((m) => m.type === 'check').at(-1).id")


def window(*tokens: str, value: float = 2.0) -> dict:
    return {"value": value, "tokens": list(tokens), "series": [0.0, *[value] * (len(tokens) - 1)], "from": "a.py"}


def checked(it, number: int, **changes) -> None:
    answer = {"type": "checked", "id": number, "ok": True, "said": "", "error": "", "python": "", "settings_error": ""}
    it.page.evaluate("(m) => form.tell(m)", {**answer, "windows": None, "scannable": True, **changes})


def test_the_first_unit_is_the_one_that_python_suggests_until_another_is_typed(form):
    it = form()
    picked(it)
    assert {"type": "alive", "hook": "blocks.0.mlp.hook_post"} in it.page.evaluate("form.sent")
    it.page.evaluate("form.put({ alive: { 'blocks.0.mlp.hook_post': 31 } })")
    assert it.expression == "blocks.0.mlp.hook_post[-1, 31]"
    assert it.page.get_by_label("unit", exact=True).input_value() == "31"
    it.page.get_by_label("unit", exact=True).fill("5")
    it.page.evaluate("form.put({ alive: { 'blocks.0.mlp.hook_post': 7 } })")
    assert it.expression == "blocks.0.mlp.hook_post[-1, 5]"


def test_a_random_unit_is_one_of_the_layer(form):
    it = form()
    checked(it, picked(it))
    seen = set()
    for _ in range(8):
        it.page.get_by_role("button", name="Random unit").click()
        seen.add(it.expression)
    assert len(seen) > 1 and all(0 <= int(text.split(", ")[1][:-1]) < 40 for text in seen)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_selective_units_are_scanned_for_and_chosen(form, scheme):
    it = form(scheme)
    number = picked(it)
    checked(it, number)
    it.page.get_by_role("button", name="Most selective units").click()
    assert it.page.evaluate("form.sent.at(-1)") == {"type": "scan", "text": it.expression}
    it.page.evaluate("form.put({ scanning: { part: 0.456, name: 'layer 0' } })")
    assert it.page.get_by_text("scanning layer 0: 45 %").is_visible()
    assert it.page.get_by_role("button", name="Most selective units").is_disabled()
    it.page.get_by_role("button", name="Cancel").click()
    assert it.page.evaluate("form.sent.at(-1)") == {"type": "cancel"}
    row = {"label": "blocks.0.mlp.hook_post[-1, 12]", "name": "L0.N12", "maximum": 2.0, "active": 0.013}
    row |= {"kurtosis": 123.4, "windows": [window(" the", HOSTILE)]}
    units = {"name": "layer 0", "from": "20,000 tokens of texts", "rows": [row], "count": 40}
    it.page.evaluate("(units) => form.put({ scanning: {}, units })", units)
    assert not it.page.get_by_role("button", name="Cancel").is_visible()
    assert it.page.get_by_text("1 most selective of 40 units in 20,000 tokens of texts").is_visible()
    it.page.get_by_role("button", name="L0.N12").click()
    assert it.expression == "blocks.0.mlp.hook_post[-1, 12]"
    assert it.page.get_by_label("unit", exact=True).input_value() == "12"
    it.page.wait_for_function("(n) => form.sent.some((m) => m.type === 'check' && m.id > n)", arg=number)
    number = it.page.evaluate("form.sent.filter((m) => m.type === 'check').at(-1).id")
    checked(it, number, windows=[window(" a", HOSTILE), window(" b", " c", value=1.0)], windows_from="20,000 tokens")
    assert it.page.get_by_text("Top 2 windows").is_visible() and it.page.title() == "form"
    assert it.page.get_by_text("Top windows in 20,000 tokens").is_visible()


def test_a_feature_without_units_offers_none(form):
    it = form()
    it.page.get_by_label("feature", exact=True).fill('logit(" the")')
    it.page.wait_for_function("form.sent.some((m) => m.type === 'check')")
    checked(it, it.page.evaluate("form.sent.at(-1).id"), scannable=False)
    assert not it.page.get_by_role("button", name="Random unit").is_visible()
    assert not it.page.get_by_role("button", name="Most selective units").is_visible()
