"""MkDocs hooks: addresses from pyproject.toml, pages from outside docs/, nothing from the network.

A page of ``INCLUDED`` stays where readers of the repository look for it. Its relative links, and
those of pages in docs/ to files of the repository, lead to the page of the site that shows the
file, else to the file in the repository. Options in inline code are marked, so that lines break
between them.
"""

from __future__ import annotations

import os
import posixpath
import re
import tomllib
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
URLS: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]
INCLUDED = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "README.md": "index.md",
    "benchmarks/RESULTS.md": "benchmarks.md",
    "data/README.md": "data.md",
    "jobs/README.md": "site-profiles.md",
}
_SOURCES = {page: source for source, page in INCLUDED.items()}
_LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#|/)([^)#\s]+)")
_INLINE_CODE = re.compile(r"<code>([^<]+)</code>")
_OPTION = re.compile(r"(?<![\w-])--?[a-z][\w-]*")
_LOADED = re.compile(
    r"<(?:script|img|iframe|source)[^>]+src=[\"']?(?:https?:)?//[^\"'> ]+"
    r"|<link[^>]+rel=[\"']?(?:stylesheet|icon|preconnect|preload)[^>]+href=[\"']?(?:https?:)?//[^>]+"
)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    config.site_url, config.repo_url = URLS["Documentation"], URLS["Source"]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for source, page in INCLUDED.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    here = posixpath.dirname(_SOURCES.get(page.file.src_uri, f"docs/{page.file.src_uri}"))

    def on_the_site(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(here, link[1]))
        if target in INCLUDED:
            return INCLUDED[target]
        if target.startswith("docs/"):
            return target.removeprefix("docs/")
        if not (ROOT / target).exists():
            raise PluginError(f"{page.file.src_uri}: link to {link[1]}, which is not there")
        kind = "tree" if os.path.isdir(ROOT / target) else "blob"
        return f"{URLS['Source']}/{kind}/main/{target}"

    return _LINK.sub(on_the_site, markdown)


def on_page_content(html: str, **_: Any) -> str:
    def marked(code: re.Match[str]) -> str:
        return _OPTION.sub(r'<span class="option">\g<0></span>', code[0])

    return _INLINE_CODE.sub(marked, html)


def on_post_page(output: str, page: Any, **_: Any) -> str:
    if loaded := _LOADED.search(output):
        raise PluginError(f"{page.file.src_uri} loads from the network: {loaded[0]}")
    return output
