"""How a report must look in a real browser, at phone and desk width, in light and dark, and on paper."""

from pathlib import Path

from .browser import DESK, PHONE, Browser


def looks_right(browser: Browser, page: Path) -> None:
    """Nothing sticks out to the side, on paper neither; every picture is there; the page is not blank; dark is dark."""
    for size in (PHONE, DESK):
        backgrounds = {}
        for scheme in ("light", "dark"):
            view = browser.look(page, size, scheme)
            assert view.page_width == view.width, f"the page scrolls sideways at {size}: {view.outside}"
            assert view.outside == []
            assert view.broken == 0
            assert view.pixels.shape[0] > size[1]
            assert view.pixels.std() > 0.05, "the page is blank"
            backgrounds[scheme] = view.pixels[:, 0].mean()
        assert backgrounds["light"] > 0.95
        assert backgrounds["dark"] < 0.2
    assert not browser.cut_off_in_print(page)
