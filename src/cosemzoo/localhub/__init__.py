"""A small loopback Hub that the unmodified ``huggingface_hub`` client works against, over HTTP.

It exists for the demo, the tests and for trying a publication before it is real: real git objects, LFS,
ranges, tags, branches, ``parent_commit`` conflicts. It offers no Xet, so clients that upload by path set
``HF_HUB_DISABLE_XET=1``; downloads need nothing.

It is an extra: ``pip install ".[localhub]"`` in a checkout, ``pip install "cosemzoo[localhub]"`` where
cosemzoo is installed as a package.

Examples
--------
>>> from pathlib import Path
>>> from cosemzoo.localhub import LocalHub
>>> with LocalHub(Path("hub-root")) as hub:  # doctest: +SKIP
...     HfApi(endpoint=hub.endpoint).create_repo("cosem/setup04")
"""

try:
    import dulwich  # noqa: F401
    import starlette  # noqa: F401
    import uvicorn  # noqa: F401
    import yaml  # type: ignore[import-untyped]  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"The local Hub needs {error.name}, which is not installed. "
        'Install it with: pip install "cosemzoo[localhub]"',
        name=error.name,
    ) from error

from cosemzoo.localhub.ledger import RequestRecord
from cosemzoo.localhub.server import LocalHub, serve
from cosemzoo.localhub.store import RootInUseError

__all__ = ["LocalHub", "RequestRecord", "RootInUseError", "serve"]
