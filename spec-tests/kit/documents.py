"""The documents of the repository: whether what they refer to exists.

Checked are relative links with their anchors, and words in backticks that begin like a path of the repository. After
`PATH::NAME` the file must have a function of that name; after "`A`, `B` in `PATH`" it must hold both words.
"""

import re
from functools import cache
from urllib.parse import unquote

from kit import host

# First components of paths in the repository. Directories of built and generated files are not listed.
PLACES = ("runtime/", "shim/", "spec-tests/", "benches/", "docs/", "packaging/", "third-party/", ".ci/", ".github/")
# Its entries name paths as they were at the time.
HISTORY = "CHANGELOG.md"
_FENCE = re.compile(r"^(```|~~~).*?^\1", re.M | re.S)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_NAMES_IN = re.compile(r"((?:`\w+`(?:,| and) )*`\w+`) (?:in|of) `([^`\n]+)`")


def prose(path):
    """The text of a document without its code blocks."""
    return _FENCE.sub("", path.read_text())


@cache
def anchors(path):
    """The anchors of a document's headings, as GitHub derives them."""
    found = {}
    for title in re.findall(r"^#+ +(.*?) *#*$", prose(path), re.M):
        title = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title)
        slug = re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
        count = found[slug] = found.get(slug, -1) + 1
        if count:
            found[f"{slug}-{count}"] = 0
    return set(found)


def faults(path):
    """References of the document `path` whose target is missing."""
    text = prose(path)
    for link in _LINK.findall(re.sub(r"`[^`\n]*`", "", text)):
        if re.match(r"\w+:", link):
            continue
        name, _, anchor = unquote(link).partition("#")
        target = (path.parent / name).resolve() if name else path
        if not target.exists():
            yield f"the link {link} leads nowhere"
        elif anchor and target.suffix == ".md" and anchor not in anchors(target):
            yield f"the link {link} names no heading of {name or path.name}"
    if path.name == HISTORY:
        return
    for span in re.findall(r"`([^`\n]+)`", text):
        name, _, function = span.split()[0].partition("::")
        if not name.startswith(PLACES):
            continue
        target = host.TOP / name
        if not target.exists():
            yield f"`{name}` is not in the repository"
        elif function and not re.search(rf"\bfn {re.escape(function)}\b", target.read_text()):
            yield f"{name} has no function {function}"
    for names, name in _NAMES_IN.findall(text):
        if name.startswith(PLACES) and (host.TOP / name).is_file():
            held = (host.TOP / name).read_text()
            for word in re.findall(r"\w+", names):
                if not re.search(rf"\b{word}\b", held):
                    yield f"{name} has no {word}"
