"""Strips of tokens and maps of substitutes for papers: what they show, where their texts are, and their files."""

from __future__ import annotations

import re
import struct
import sys
import unicodedata
from xml.etree import ElementTree

import numpy as np
import pytest

import dreamy_lens as dl
from dreamy_lens.errors import DreamyLensError, SettingsError
from dreamy_lens.figures import SvgFigure, heat_map, save, strip
from dreamy_lens.results import Attribution
from tests.helpers.fakes import HOSTILE, attribution_of

SVG = "{http://www.w3.org/2000/svg}"
WIDE = ("日本語", "한국어", " the", "🎉🎊", "שלום", "नमस्ते", "ё", "→", "\n", "   ", "x" * 60)
LINE_HEIGHT = 11


def parsed(figure: SvgFigure) -> ElementTree.Element:
    root = ElementTree.fromstring(figure.svg)
    assert root.tag == f"{SVG}svg" and float(root.get("width", 0)) == figure.width
    return root


def texts(figure: SvgFigure) -> list[str]:
    return ["".join(text.itertext()) for text in parsed(figure).iter(f"{SVG}text")]


def cells(text: str) -> float:
    """Width of a text in letters, by the tables of Unicode only."""
    return sum(0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in "WF") for c in text)


def spans(figure: SvgFigure) -> list[tuple[float, float, float, str]]:
    """Base line, left end and right end of each text of a font whose letters are 0.602 of its size wide."""
    found = []
    for text in parsed(figure).iter(f"{SVG}text"):
        if text.get("class") != "m":
            continue
        said = "".join(text.itertext())
        fixed = text.get("textLength")
        wide = float(fixed) if fixed else 0.602 * float(text.get("font-size", 0)) * cells(said)
        x = float(text.get("x", 0)) - {"start": 0.0, "middle": 0.5, "end": 1.0}[text.get("text-anchor", "start")] * wide
        found.append((float(text.get("y", 0)), x, x + wide, said))
    return found


def overlaps(figure: SvgFigure) -> list[tuple[str, str]]:
    all_spans = spans(figure)
    return [
        (one[3], other[3])
        for i, one in enumerate(all_spans)
        for other in all_spans[i + 1 :]
        if abs(one[0] - other[0]) < LINE_HEIGHT - 2 and one[1] < other[2] - 0.5 and other[1] < one[2] - 0.5
    ]


def test_the_strip_shows_tokens_substitutes_and_values():
    found = attribution_of((" if", " only", " then"), k=8)
    shown = texts(strip({"by hand": found}, best=3, worst=1))
    assert "by hand" in shown and "value 3.00   cross-entropy 4.50" in shown
    for i, token in enumerate(found.tokens):
        assert token in shown
        for substitute in (*found.top(i, 3), *found.worst(i, 1)):
            assert substitute.token in shown and f"{substitute.value:.2f}".replace("-", "−") in shown
        assert found.top(i, 8)[4].token not in shown
    most = max(found.drop_to_worst)
    assert f"Colour: drop in value with the worst of 8 substitutes (max {most:.2f})" in shown


def test_colour_is_the_drop_with_the_worst_and_the_bar_that_with_the_best_on_one_scale():
    one, other = attribution_of((" a", " b", " c"), seed=1), attribution_of((" d", " e"), seed=4)
    root = parsed(strip([one, other]))
    worst = np.concatenate([one.drop_to_worst, other.drop_to_worst])
    best = np.concatenate([one.drop_to_best, other.drop_to_best])
    boxes = [rect for rect in root.iter(f"{SVG}rect") if rect.get("class") == "token"]
    assert [float(box.get("fill-opacity", 9)) for box in boxes] == pytest.approx(worst / worst.max(), abs=1e-3)
    bars = [rect for rect in root.iter(f"{SVG}rect") if rect.get("class") == "bar"]
    heights = [float(bar.get("height", 0)) for bar in bars]
    assert heights == pytest.approx([18 * drop / worst.max() for drop in best if drop > 0], abs=0.06)
    # A dotted line lies on the token whose best substitute is better; nothing hangs in mid-air.
    dotted = [path for path in root.iter(f"{SVG}path") if path.get("class") == "better"]
    tops = {float(box.get("y", 0)) for box in boxes}
    assert len(dotted) == (best < 0).sum() > 0
    for path in dotted:
        y = float(re.match(r"M[\d.]+ ([\d.]+)", path.get("d", ""))[1])  # type: ignore[index]
        assert min(abs(y - top) for top in tops) <= 2
    for bar in bars:
        assert min(abs(float(bar.get("y", 0)) + float(bar.get("height", 0)) - top) for top in tops) < 0.2


def test_there_is_one_legend_for_all_prompts():
    shown = " ".join(texts(strip({f"prompt {i}": attribution_of((" a", " b"), seed=i) for i in range(4)})))
    assert shown.count("Colour:") == shown.count("Bar:") == 1


@pytest.mark.parametrize("width", [312, 528])
@pytest.mark.parametrize("draw", [strip, heat_map])
def test_no_texts_overlap_or_leave_the_figure(draw, width):
    for pieces in (WIDE, HOSTILE, tuple(f" word{i}" for i in range(40))):
        figure = draw(attribution_of(pieces, pieces=pieces), width=width)
        assert not overlaps(figure)
        assert all(left >= 0 and right <= width for _, left, right, _ in spans(figure))
        lowest = max(y for y, *_ in spans(figure))
        assert figure.width == width and lowest < figure.height


def test_a_long_prompt_wraps():
    found = attribution_of(tuple(f" word{i}" for i in range(40)))
    for width in (312, 528):
        rows = {
            rect.get("y")
            for rect in parsed(strip(found, width=width)).iter(f"{SVG}rect")
            if rect.get("class") == "token"
        }
        assert len(rows) > 3


def test_text_is_readable_at_its_own_size():
    for figure in (strip(attribution_of((" a", " b"))), heat_map(attribution_of((" a", " b")))):
        sizes = [float(text.get("font-size", 0)) for text in parsed(figure).iter(f"{SVG}text")]
        assert min(sizes) * 0.75 >= 7  # points; a pixel is three quarters of a point


def test_hostile_tokens_are_text():
    for draw in (strip, heat_map):
        figure = draw(attribution_of(HOSTILE, pieces=HOSTILE))
        root = parsed(figure)
        assert {element.tag.removeprefix(SVG) for element in root.iter()} <= {
            "svg",
            "title",
            "style",
            "rect",
            "text",
            "path",
        }
        assert not [name for element in root.iter() for name in element.keys() if name.startswith("on")]
        assert "<script" not in figure.svg and "[U+202E]" in texts(figure) and "\u202e" not in figure.svg
        assert {"→", "····", "∅"} <= set(texts(figure))
        figure.svg.encode("utf-8")
        assert "<script" not in figure.to_html()


def test_the_heat_map_names_every_substitute_and_marks_the_token_of_the_prompt():
    found = attribution_of((" if", " only"), k=6)
    figure = heat_map(found)
    shown = texts(figure)
    for i, token in enumerate(found.tokens):
        assert shown.count(token) >= 2  # heading and cell
        assert all(substitute.token in shown for substitute in found.top(i, 6))
    root = parsed(figure)
    boxes = [rect for rect in root.iter(f"{SVG}rect") if rect.get("class") == "cell"]
    own = [rect for rect in root.iter(f"{SVG}rect") if rect.get("class") == "own"]
    assert len(boxes) == 2 * 7 and len(own) == 2
    tops = sorted({float(box.get("y", 0)) for box in boxes})
    ranks = [min(range(7), key=lambda r, mark=mark: abs(tops[r] - float(mark.get("y", 0)))) for mark in own]
    assert ranks == [int((found.values[i] > found.value).sum()) for i in range(2)]


def lightness(colour: str) -> float:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_higher_values_are_darker_in_black_and_white_too():
    found = attribution_of((" if",), k=12)
    boxes = [rect for rect in parsed(heat_map(found)).iter(f"{SVG}rect") if rect.get("class") == "cell"]
    shades = [lightness(box.get("fill", "")) for box in sorted(boxes, key=lambda box: float(box.get("y", 0)))]
    assert shades == sorted(shades) and shades[-1] - shades[0] > 100


def test_few_rows_keep_the_token_of_the_prompt():
    found = attribution_of((" if", " only"), k=9)
    low = Attribution(
        found.ids,
        found.tokens,
        -9.0,
        1.0,
        found.candidates,
        found.values,
        found.cross_entropies,
        found.candidate_tokens,
    )
    root = parsed(heat_map(low, rows=3))
    assert len([r for r in root.iter(f"{SVG}rect") if r.get("class") == "cell"]) == 2 * 4
    assert len([r for r in root.iter(f"{SVG}rect") if r.get("class") == "own"]) == 2


def test_values_that_are_not_finite_are_drawn_without_colour():
    found = attribution_of((" a", " b"))
    found.values[0] = np.nan
    assert "nan" not in strip(found).svg + heat_map(found).svg


def test_a_saved_attribution_is_drawn_without_a_model(tmp_path, monkeypatch):
    found = attribution_of((" if", " only"))
    found.save(tmp_path / "a.json")
    monkeypatch.setattr(dl, "load_model", None)
    loaded = Attribution.load(tmp_path / "a.json")
    assert loaded.save(tmp_path / "a.svg").read_text(encoding="utf-8") == strip(found).svg == strip(loaded).svg


def test_prompts_of_a_run_are_attributed_with_its_model():
    run = dl.dream("L2.N17", iterations=1, population=2, children=4, length=4)
    best = run.frontier[-1]
    assert strip(best).svg == strip(best.attribution()).svg
    figure = strip([("weak", run.frontier[0]), best])
    assert "weak" in texts(figure) and f"cross-entropy {best.cross_entropy:.2f}" in " ".join(texts(figure))


def test_what_cannot_be_drawn_is_said():
    with pytest.raises(SettingsError, match=r"'some text'.*dl\.attribution"):
        strip("some text")
    with pytest.raises(SettingsError, match="no prompt to draw"):
        strip([])
    with pytest.raises(SettingsError, match="one prompt, and there are 2"):
        heat_map([attribution_of((" a",)), attribution_of((" b",))])


# Files.


def test_svg_and_pages_need_no_kaleido_and_other_images_say_what_is_missing(tmp_path, monkeypatch):
    found = attribution_of((" if", " only"))
    monkeypatch.setitem(sys.modules, "kaleido", None)
    assert save(strip(found), tmp_path / "a.svg").stat().st_size
    assert "<svg" in strip(found).save(tmp_path / "a.html").read_text(encoding="utf-8")
    for ending in ("pdf", "png"):
        with pytest.raises(DreamyLensError, match=r"dreamy-lens\[export\].*An SVG needs neither.*a\.svg"):
            found.save(tmp_path / f"a.{ending}")
    with pytest.raises(DreamyLensError, match="does not end in a format for figures"):
        strip(found).save(tmp_path / "a.gif")


@pytest.mark.filterwarnings("ignore:.*kopts:UserWarning")
def test_pdf_has_vectors_at_its_own_size_and_png_pixels(tmp_path):
    kaleido = pytest.importorskip("kaleido", reason="kaleido, which writes images, is not installed")
    try:
        kaleido.start_sync_server(silence_warnings=True)
    except Exception as error:
        pytest.skip(f"kaleido finds no Chrome or Chromium: {error}")
    try:
        found = attribution_of((" if", "日本語"))
        pdf = found.save(tmp_path / "a.pdf").read_bytes()
        png = found.save(tmp_path / "a.png").read_bytes()
    finally:
        kaleido.stop_sync_server(silence_warnings=True)
    assert pdf[:5] == b"%PDF-" and len(pdf) > 2_000
    width, _ = map(float, re.search(rb"MediaBox \[0 0 ([\d.]+) ([\d.]+)\]", pdf).groups())  # type: ignore[union-attr]
    assert width == pytest.approx(5.5 * 72, abs=1)
    assert b"/FontFile" in pdf or b"/Font" in pdf  # the text is text
    assert b"/Image" not in pdf.replace(b"/ImageB", b"").replace(b"/ImageC", b"").replace(b"/ImageI", b"")
    assert png[:8] == b"\x89PNG\r\n\x1a\n" and struct.unpack(">II", png[16:24])[0] == 2 * 528
