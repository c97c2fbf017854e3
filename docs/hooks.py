"""What the site is built with beside its pages: the list of options, from the code, so that it is never behind it."""

from typing import Any


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the list of ``fit``'s options where a page asks for them."""
    marker = "<!-- options -->"
    return markdown.replace(marker, _options()) if marker in markdown else markdown


def _options() -> str:
    from metasgd.cli.short_help import option_groups, shown  # which takes seconds to import

    lines = []
    for title, options in option_groups():
        lines += ["", f"## {title[0].upper()}{title[1:]}", ""]
        for path, default, purpose in options:
            stands = f" (`{shown(default)}`)" if shown(default) else ""
            lines.append(f"- `--{path}`{stands}: {purpose.replace('*', chr(92) + '*')}")
    return "\n".join(lines)
