"""Sphinx's settings for the site (`make docs`): Markdown by MyST, theme furo, nothing from a network."""

project = "weft"
html_title = "weft"
extensions = ["myst_parser"]
exclude_patterns: list[str] = []
myst_heading_anchors = 3
html_theme = "furo"
html_copy_source = False
html_show_copyright = False
suppress_warnings = ["misc.highlighting_failure"]
