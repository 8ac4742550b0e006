"""Bad input gets its exact answer, stores nothing, and leaves the connection usable (s3.md 11)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.compat.bad_input import CONTENT, ELSEWHERE, KEY, ROWS, Case, Context, Row
from tests.compat.conftest import Site

CASES = [
    pytest.param(row, case, id=f"{row.text[:40]}-{case.name}") for row in ROWS for case in row.cases
]


@pytest.fixture(scope="module")
def prepared(site: Site) -> str:
    """A bucket that holds one object."""
    bucket = site.new_bucket()
    with site.client() as client:
        assert client.request("PUT", f"/{bucket}/{KEY}", body=CONTENT).status == 200
    return bucket


@pytest.mark.parametrize(("row", "case"), CASES)
def test_bad_input_gets_its_exact_answer(
    site: Site, prepared: str, row: Row, case: Case, capfd: pytest.CaptureFixture[str]
) -> None:
    """The table of bad input, row by row (s3.md 11): status, code, a connection that goes on, a quiet log."""
    with site.client() as client:
        context = Context(client=client, bucket=prepared)
        if case.half_closes and client.tls is not None:
            # TLS has no half-closed stream: the server hears that all is over, and ends its side too.
            with pytest.raises((EOFError, ConnectionResetError)):
                case.send(context)
            _assert_nothing_is_stored(site, prepared, case)
            assert capfd.readouterr().err == ""
            return

        response = case.send(context)

        assert (response.status, response.code) == (case.status, case.code or response.code)
        if case.element:
            assert [found.text for found in response.xml().iter("Code")] == [case.element]
        assert response.closes == case.closes
        if not case.closes:
            again = client.request("GET", context.url(KEY))
            assert (again.status, again.body) == (200, CONTENT)
    _assert_nothing_is_stored(site, prepared, case)
    assert capfd.readouterr().err == ""


def _assert_nothing_is_stored(site: Site, bucket: str, case: Case) -> None:
    """But for the one case that is named "accepted"."""
    with site.client() as client:
        stored = client.request("GET", f"/{bucket}/new")
        assert stored.status == (200 if case.status == 200 and case.name == "accepted" else 404)
        client.request("DELETE", f"/{bucket}/new")


def test_every_row_is_named() -> None:
    """A row of the page is tested or says what it waits for; none is left out silently (s3.md 0)."""
    page = (Path(__file__).parents[2] / "docs" / "s3-compatibility.md").read_text()
    table, _, _ = page[page.index("| input | answer | state |") :].partition("\n\n")
    lines = table.splitlines()[2:]
    texts = {line.removeprefix("| ").partition(" | ")[0]: line for line in lines}

    assert set(texts) == {row.text for row in ROWS} | set(ELSEWHERE)
    for row in ROWS:
        state = "tested" if row.cases else "later"
        assert f"| {state}" in texts[row.text]
        assert row.later in texts[row.text]
