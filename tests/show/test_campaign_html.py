"""A campaign's page: it needs nothing else, and nothing in it breaks out."""

from __future__ import annotations

import re
from html.parser import HTMLParser

from harness.show.campaign import CampaignReport
from harness.show.campaign_html import campaign_html, heat_map, share_bar
from harness.show.coverage import Coverage

VOID = {"meta", "br", "rect", "img", "link", "input", "hr"}


class Page(HTMLParser):
    """A page's elements; it notes what is not closed in its turn."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.titles: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs
        self.titles += [value or "" for name, value in attrs if name == "title"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "title"):
            self.text += data


def test_it_is_well_formed(report: CampaignReport, nasty: CampaignReport) -> None:
    for each in (report, nasty):
        page = Page(campaign_html(each))
        assert page.wrong == []
        assert page.open == []


def test_it_says_everything(report: CampaignReport) -> None:
    text = " ".join(Page(campaign_html(report)).text.split())

    for part in (
        "matrix classic",
        "✗ 2 findings",
        "unicorn 2.1.4",
        "383,386",
        "1. NX at level 2 (PDE)",
        "1,234,567 cases, first: 42",
        "A fetch needs XD = 0 at every level",
        "0x8000_0000_0020_0087",
        "◄ decides",
        "mapped to 0x20_0008",
        "harness probe .harness/reproducers/nx-2-3f9a.jsonl",
        "P U I: a user fetch",
        "Coverage: 108 of 112 cells that can be met",
        "rules that no case met: SMEP, SMAP",
        "1 of 2 planted bugs found, named and made small",
        "gp-for-ss",
        "It no longer occurs",
        "this engine has no PKS",
        "harness matrix classic --levels 4 --levels 5 --slice 1/100",
        "aliases (4 levels)",
    ):
        assert part in text, part


def test_it_loads_nothing(report: CampaignReport) -> None:
    text = campaign_html(report)
    page = Page(text)

    assert not page.tags & {"script", "link", "img", "iframe", "object", "embed", "base", "form"}
    assert not {name for name, _ in page.attributes} & {"src", "href", "srcset", "style"}
    assert "url(" not in text
    assert "@import" not in text
    assert "http://" not in text
    assert "https://" not in text


def test_nothing_breaks_out(nasty: CampaignReport) -> None:
    text = campaign_html(nasty)
    page = Page(text)

    assert "script" not in page.tags
    assert not any(name.startswith("on") for name, _ in page.attributes)
    assert "{{ 7 * 7 }}" in page.text
    assert not set("\x00\x1b\x07\ud800\uffff\u202e") & set(text)
    text.encode()


def test_every_square_says_what_it_is(report: CampaignReport) -> None:
    titles = Page(campaign_html(report)).titles

    assert "WP, level 1, write, kernel4: 12,345,678 cases" in titles
    assert "RSVD_NX, level 3, write, user4: never met" in titles
    assert "RSVD_NX, level 5, read, user4: cannot be met" in titles
    assert "CANONICAL, no entry, read, user4: 12 cases" in titles


def test_shades_follow_the_counts() -> None:
    hits = {f"NX/{level}/fetch/user4": 10 ** (2 * level) for level in range(1, 5)} | {
        "NX/-/fetch/user4": 1
    }
    heat = heat_map(Coverage(hits))

    shades = [row.squares[0].shade for row in heat.rows]
    assert shades == sorted(shades)
    assert (shades[0], shades[-1]) == (1, 8)


def test_one_case_is_not_divided_by_zero() -> None:
    heat = heat_map(Coverage({"NX/1/fetch/user4": 1}))
    assert heat.rows[0].squares[0].shade == 8


def test_a_mode_has_only_the_kinds_that_it_can_have(report: CampaignReport) -> None:
    modes = dict(heat_map(report.coverage).modes)
    assert modes["kernel4"] == ("read", "write", "fetch")
    assert modes["user4"] == ("read", "write", "fetch", "implicit")


def test_the_bar_is_full_and_shows_what_is_rare(report: CampaignReport) -> None:
    pieces = share_bar(report)

    assert [piece.word for piece in pieces] == ["agree", "known", "diverge", "unsupported", "broke"]
    assert abs(sum(piece.width for piece in pieces) - 1000) < 0.1
    assert min(piece.width for piece in pieces) > 5
    assert share_bar(CampaignReport(name="", engine="")) == ()


def test_the_style_names_only_colours_that_it_defines(report: CampaignReport) -> None:
    text = campaign_html(report)
    used = set(re.findall(r"var\((--[a-z0-9]+)\)", text))
    light, dark = re.findall(r":root \{(.*?)\}", text, re.DOTALL)
    assert used <= set(re.findall(r"(--[a-z0-9]+):", light))
    assert used <= set(re.findall(r"(--[a-z0-9]+):", dark))
