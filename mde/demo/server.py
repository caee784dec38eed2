"""Serves the page, on this machine alone unless told otherwise."""

import ipaddress
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mde.demo.offers import Shelf, find_offers
from mde.errors import InputError

UPLOAD_LIMIT = "100mb"
"""Of one file."""
WAITING = 32
"""People who may wait for a prediction; later ones are told to come back."""
SETTINGS = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens at an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@contextmanager
def serving(
    root: Path, sources: Sequence[str] = (), host: str = "127.0.0.1", port: int | None = None
) -> Iterator[str]:
    """Serve the page for as long as the block lasts; gives its address.

    sources: of `find_offers`. port: the first free one from 7860 on when None. All
    files of visitors lie in a folder that is gone afterwards.
    Raises InputError as `find_offers` does, and when it cannot listen there.
    """
    offers = find_offers(root, sources)
    with tempfile.TemporaryDirectory(prefix="mde-demo-") as name:
        folder = Path(name).resolve()
        # The first two before Gradio is imported. The folder for its files is else one that all of
        # a machine's Gradio pages share, and serve.
        os.environ |= SETTINGS | {"GRADIO_TEMP_DIR": name, "GRADIO_EXAMPLES_CACHE": f"{name}/no"}
        from mde.demo.look import ASSETS, theme
        from mde.demo.page import Page
        from mde.demo.samples import write_samples

        page = Page(Shelf(root), offers, folder, write_samples(root, folder / "samples")).blocks
        page.queue(max_size=WAITING)
        try:
            _, address, _ = page.launch(
                server_name=host, server_port=port, share=False, inbrowser=False, quiet=True,
                prevent_thread_lock=True, show_error=False, max_file_size=UPLOAD_LIMIT,
                allowed_paths=[], enable_monitoring=False, run_history=False, footer_links=[],
                ssr_mode=False, pwa=False, mcp_server=False, state_session_capacity=64,
                theme=theme(), css_paths=ASSETS / "page.css",
            )  # fmt: skip
        except OSError as error:
            raise InputError(f"cannot listen at {host}: {error}") from error
        try:
            yield address
        finally:
            page.close(verbose=False)
