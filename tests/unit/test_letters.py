"""What mails look like: readable in both forms, nothing from elsewhere, and nothing of others' that is not text."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import pytest

from gateway import letters, sealing
from gateway.letters.texts import usd, when
from gateway.mail import Letter
from local.mail import PREFERENCES, SAMPLES, render

if TYPE_CHECKING:
    from pathlib import Path

NASTY = "<script>alert('x')</script>\r\nBcc: all@example.com\u2028\"&"
VOID = {"meta", "br", "img", "input"}


def sample(event: str, **changes: Any) -> Letter:
    payload = {**SAMPLES[event], **changes}
    if event == "account.recovery":
        payload["sealed"] = sealing.seal("gwr_token")
    name = changes.get("name", "Ada")
    return letters.write(event, payload, name=name, user_id=7, preference=PREFERENCES.get(event))


class Page(HTMLParser):
    """A page's tags, which must be closed in turn, its attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data + " "


def words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text))


@pytest.mark.parametrize("event", letters.EVENTS)
def test_a_mail_says_the_same_in_both_forms_and_brings_nothing_along(event: str):
    letter = sample(event)
    page = Page(letter.html)
    assert page.open == []
    assert {tag for tag, _ in page.seen} <= {
        "html", "head", "meta", "title", "body", "table", "tr", "td", "h1", "p", "pre", "a",
    }  # fmt: skip
    assert {name for _, attributes in page.seen for name in attributes} <= {
        "style", "href", "lang", "charset", "name", "content", "role", "width", "cellpadding", "cellspacing", "border",
        "align",
    }  # fmt: skip
    assert "url(" not in letter.html
    shown = words(letter.text) - words(letter.unsubscribe_url or "")
    assert shown <= words(page.text) | {"unsubscribe", "token"}
    assert letter.subject in page.text
    assert "\n" not in letter.subject
    assert len(letter.html) < 100_000, "Gmail cuts what is longer"


@pytest.mark.parametrize("event", letters.EVENTS)
def test_the_same_event_makes_the_same_mail(event: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("gateway.letters.texts.sealing.unseal", lambda _: "gwr_token")
    assert sample(event) == sample(event)


@pytest.mark.parametrize("event", letters.EVENTS)
def test_what_others_wrote_is_text_on_one_line(event: str):
    nasty = {name: NASTY for name in ("name", "url", "reason", "subject") if name in SAMPLES[event] or name == "name"}
    letter = sample(event, **nasty)
    assert "<script" not in letter.html
    assert "Bcc" not in "".join(line for line in letter.text.splitlines() if line.startswith("Bcc"))
    assert not re.search(r"[\r\n\u2028]", letter.subject)
    Page(letter.html)


@pytest.mark.parametrize(
    ("nano", "shown"),
    [
        (0, "$0.00"), (1, "$0.000000001"), (9_999_999, "$0.009999999"), (10_000_000, "$0.01"),
        (1_999_999_999, "$1.99"), (-1_999_999_999, "-$1.99"), (1_234_567 * 10**9, "$1,234,567.00"),
    ],
)  # fmt: skip
def test_dollars(nano: int, shown: str):
    assert usd(nano) == shown


def test_times_are_utc():
    assert when("2026-12-01T01:30:00+02:00") == "30 November 2026, 23:30 UTC"


def test_all_of_them_can_be_looked_at(tmp_path: Path):
    files = render(tmp_path / "letters")
    assert len(files) == len(letters.EVENTS)
    assert all(file.with_suffix(".txt").read_text().startswith("Subject: ") for file in files)
