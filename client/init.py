"""`segfed site init`: a new site's folder with its key and its settings, and what to send to the coordinator."""

from pathlib import Path

from client.names import SITE_NAME
from client.site_file import CERTIFICATE_FILE, PUBLIC_KEY_FILE, SITE_FILE, read_site_file, write_site_file
from segformer3d.addresses import Address
from segformer3d.errors import ConfigurationError
from segformer3d.keys import fingerprint, make_key_pair, read_public_key
from segformer3d.terminal import make_console


def init_and_print(folder: str, name: str | None, data: str | None, coordinator: str | None) -> None:
    """Make what is missing of a site's folder; what is there stays as it is.

    Raises:
        SegfedError: a setting breaks its rule, or the folder cannot be written.
    """
    place, console = Path(folder), make_console()
    if (place / SITE_FILE).exists():
        site = read_site_file(place)
    else:
        if name is None or data is None or coordinator is None:
            raise ConfigurationError("a new site needs --name, --data and --coordinator HOST:PORT")
        if not SITE_NAME.fullmatch(name):
            raise ConfigurationError(f"a site's name takes 1 to 40 letters, digits, - and _, got {name!r}")
        write_site_file(place, name, Path(data).resolve(), Address.parse(coordinator))
        site = read_site_file(place)
    public = place / PUBLIC_KEY_FILE
    if not site.key.exists():
        make_key_pair(site.key, public)
    key = read_public_key(public.read_bytes(), str(public))
    console.print(f"site {site.site.name}: settings in {place / SITE_FILE}, private key in {site.key}", soft_wrap=True)
    console.print("\nSend this line to the coordinator (it is no secret):\n")
    console.print(f"  {site.site.name} {public.read_text(encoding='ascii').strip()}\n", soft_wrap=True, highlight=False)
    console.print(f"and read its fingerprint to them by telephone: {fingerprint(key)}", soft_wrap=True)
    console.print(
        f"Ask for their certificate ({CERTIFICATE_FILE}) and put it into {place}.\n"
        f"Then: segfed site check {folder}, and segfed site join {folder}",
        soft_wrap=True,
    )
