"""A server's certificate, read again when its files change: cert-manager and kubelets replace them while we run."""

import asyncio
import logging
import ssl
from pathlib import Path

logger = logging.getLogger(__name__)

_LOOK_EVERY_S = 30.0
_Mark = tuple[int, int, int]


class Certificate:
    """A certificate chain and its key, as a context that new connections use."""

    def __init__(self, chain: Path, key: Path) -> None:
        """Read the files.

        Args:
            chain: PEM, the server's certificate first.
            key: PEM.

        Raises:
            OSError: They cannot be read, or do not belong together (ssl.SSLError).
        """  # noqa: DOC502
        self._chain, self._key = chain, key
        self._mark = self._marks()
        self.context = self._load(_context())

    def reload(self) -> bool:
        """Read the files again if they changed; return whether new connections now get another certificate."""
        mark = self._marks()
        if mark == self._mark:
            return False
        try:
            # Into a context of its own first: a chain without its key would spoil the one in use.
            self._load(_context())
            self._load(self.context)
        except OSError as error:
            logger.warning("certificate %s: the new one cannot be used, the old one stays: %s", self._chain, error)
            return False
        self._mark = mark
        logger.info("certificate %s: read again", self._chain)
        return True

    async def keep_fresh(self) -> None:
        """Look at the files now and then until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            self.reload()

    def _load(self, context: ssl.SSLContext) -> ssl.SSLContext:
        context.load_cert_chain(self._chain, self._key)
        return context

    def _marks(self) -> tuple[_Mark | None, ...]:
        return tuple(_mark(path) for path in (self._chain, self._key))


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _mark(path: Path) -> _Mark | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
