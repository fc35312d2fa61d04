"""Base URLs of servers: their parts, and the header that carries the key."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, urlsplit, urlunsplit

__all__ = ["check_address", "endpoint_root", "is_azure", "key_headers", "query_of"]

_ENDPOINT = re.compile(r"(?:/chat)?/completions/?$")
_SECRET_NAME = re.compile(r"key|token|secret|passw|credential|\bsig|\bauth|\bcode$", re.IGNORECASE)
_WORD = r"(?:[A-Za-z]{1,20}|\d{1,8}|\w{1,3})"
_PLAIN_VALUE = re.compile(rf"(?:{_WORD}(?:[-._]{_WORD})*)?")  # versions, dates, names of deployments; no key looks so
_AZURE_HOSTS = (
    ".openai.azure.com", ".openai.azure.us", ".openai.azure.cn", ".cognitiveservices.azure.com",
    ".services.ai.azure.com", ".azure-api.net",
)  # fmt: skip


def check_address(url: str) -> None:
    """Check that a base URL holds no secret, since a run keeps its settings on disk. No message repeats the URL.

    Raises:
        ValueError: It holds a user and password, a fragment, or what may be a key in its query.
    """
    head, _, fragment = url.partition("#")
    if "@" in head.partition("?")[0]:
        raise ValueError("base_url can't hold a user and password; name a key's variable with api_key_env")
    if fragment or url.endswith("#"):
        raise ValueError("base_url can't hold a fragment: remove # and what follows it")
    query = head.partition("?")[2]
    if any("=" not in item for item in query.split("&") if item):
        raise ValueError("the query of base_url must be like ?name=value; a key belongs in the variable of api_key_env")
    for name, value in query_of(url).items():
        if _SECRET_NAME.search(name) or not _PLAIN_VALUE.fullmatch(value):
            raise ValueError(
                f"the query of base_url seems to hold a key in {name[:40]!r}, and a run keeps its settings on disk: "
                "remove it, and name the key's environment variable with api_key_env"
            )


def query_of(url: str) -> dict[str, str]:
    """Return the query of a base URL, which each request carries."""
    return dict(parse_qsl(url.partition("#")[0].partition("?")[2], keep_blank_values=True))


def endpoint_root(url: str) -> str:
    """Return a base URL without its query, and without the name of an endpoint, which some services list with it."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc, _ENDPOINT.sub("", parts.path), "", ""))


def is_azure(url: str) -> bool:
    """Return whether an address belongs to Azure, or to a gateway in front of it with Azure's paths."""
    parts = urlsplit(url)
    return (parts.hostname or "").endswith(_AZURE_HOSTS) or "/openai/deployments/" in f"{parts.path}/"


def key_headers(url: str, key: str) -> dict[str, str]:
    """Return the header that carries the key.

    Azure reads keys from a header of its own, and takes ``Authorization`` for the tokens of its directory, which are
    JSON web tokens.
    """
    if is_azure(url) and not key.startswith("eyJ"):
        return {"api-key": key}
    return {"Authorization": f"Bearer {key}"}
