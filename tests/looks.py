"""How a report must look in a real browser: on a dark phone, a light desk, and paper."""

from pathlib import Path

from .browser import DESK, PHONE, Browser


def looks_right(browser: Browser, page: Path) -> None:
    """Nothing sticks out to the side, on paper neither; every picture is there; the page is not blank; dark is dark."""
    for size, scheme in ((PHONE, "dark"), (DESK, "light")):
        view = browser.look(page, size, scheme)
        assert view.page_width == view.width, f"the page scrolls sideways at {size}: {view.outside}"
        assert view.outside == []
        assert view.broken == 0
        assert view.pixels.shape[0] > size[1]
        assert view.pixels.std() > 0.05, "the page is blank"
        background = view.pixels[:, 0].mean()
        assert background > 0.95 if scheme == "light" else background < 0.2
    assert not browser.cut_off_in_print(page)
