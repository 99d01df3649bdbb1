"""Addresses of servers and databases, and what of them is a secret: user, password and query.

The one place that knows where an address ends and its secrets begin. By the grammar, user information is what stands
before the last `@` of the authority. A password that was not percent-encoded breaks the grammar (`/`, `?` and `#` end
the authority, brackets make it no host), and then what cannot be told from a secret is hidden too.
"""

import re
from urllib.parse import quote, unquote

MASK = "***"
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_FILES = ("sqlite", "file")
"""Schemes whose addresses name a file of this machine: after `///` comes a path, and `@` in it is a letter."""
_HOST = r"(?:\[[0-9A-Fa-f:.]+(?:%[\w.-]+)?\]|[^\s:@/?#\[\]\\<>\"'`{}|^]*)"
_AUTHORITY = re.compile(rf"{_HOST}(?:,{_HOST})*(?::\d*)?(?:,{_HOST}:\d*)*")
# To the last `@` before a space, since a password may hold quotes and brackets; behind it the sentence may go on.
_WORDS = r"[^\s'\"<>]*[^\s'\"<>).,;:\]}]"
_IN_TEXT = re.compile(rf"[\w+.-]*://(?:\S*@(?:{_WORDS})?|{_WORDS})")
_SECRET_NAME = re.compile(r"pass|pwd|token|secret|key|credential|user", re.IGNORECASE)


def masked(address: str) -> str:
    """Return an address for messages: `***@` in place of user and password, and no query."""
    return _hidden(address, f"{MASK}@")


def bare(address: str) -> str:
    """Return an address for records: without user, password and query."""
    return _hidden(address, "")


def without_credentials(text: str) -> str:
    """Return a setting's text, bare where it is an address and as it is where it is none."""
    return bare(text) if "://" in text else text


def masked_text(text: str) -> str:
    """Return a text in which every address is masked. What merely holds an `@` behind a plain host keeps it."""
    return _IN_TEXT.sub(lambda match: _in_text(match.group()), text)


def secrets_of(address: str) -> set[str]:
    """Return what `masked` leaves out of an address, in every spelling that a message may repeat."""
    _, hidden, rest = _cut(address)
    _, _, password = hidden.partition(":")
    found = {hidden, password}
    if not hidden and ambiguous(address):
        # No `@` says where a password ends: whatever stands in the place of host and port may be one.
        authority, _ = _authority(rest)
        found |= {authority, authority.partition(":")[2]}
    if not _of_a_file(address):
        pairs = (pair.partition("=") for pair in rest.partition("?")[2].split("&"))
        found |= {value for name, _, value in pairs if _SECRET_NAME.search(name)}
    found |= {unquote(text) for text in found}
    return {spelling for text in found if text for spelling in (text, quote(text, safe="", errors="replace"))}


def ambiguous(address: str) -> bool:
    """Return whether an address can be read in two ways: as it stands, or as one whose password was not encoded."""
    match = _SCHEME.match(address)
    if match is None or _of_a_file(address):
        return False
    authority, tail = _authority(address[match.end() :])
    return "@" in tail or not _AUTHORITY.fullmatch(authority.rpartition("@")[2])


def _hidden(address: str, mask: str) -> str:
    before, hidden, rest = _cut(address)
    if _of_a_file(address):
        return address
    rest = re.split(r"[?#]", rest, maxsplit=1)[0]
    authority, tail = _authority(rest)
    if before and not _AUTHORITY.fullmatch(authority):
        return f"{before}{MASK}"
    return before + (mask if hidden else "") + authority + tail


def _cut(address: str) -> tuple[str, str, str]:
    """Return scheme, user information and the rest. Where it is unclear how far the user information goes: farthest."""
    match = _SCHEME.match(address)
    before = match.group() if match else ""
    if _of_a_file(address):
        return before, "", address[len(before) :]
    hidden, at, rest = address[len(before) :].rpartition("@")
    return (before, hidden, rest) if at else (before, "", address[len(before) :])


def _of_a_file(address: str) -> bool:
    match = _SCHEME.match(address)
    return match is not None and match.group(1).partition("+")[0] in _FILES and address[match.end() :].startswith("/")


def _authority(rest: str) -> tuple[str, str]:
    end = re.search(r"[/?#]", rest)
    return (rest, "") if end is None else (rest[: end.start()], rest[end.start() :])


def _in_text(address: str) -> str:
    match = _SCHEME.match(address)
    if match is None:
        return masked(address)
    authority, tail = _authority(address[match.end() :])
    plain = tail.startswith("/") and authority and not {"@", ":"} & set(authority + tail.rpartition("@")[0])
    if plain or ("@" not in address and (_of_a_file(address) or _AUTHORITY.fullmatch(authority))):
        # No user information, or an `@` in a path: a query may still hold a password.
        return address if _of_a_file(address) else re.split(r"\?(?=\w+=)", address, maxsplit=1)[0]
    return masked(address)
