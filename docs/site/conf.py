"""Sphinx's settings for the site. build.py puts the pages and the executed notebooks beside a copy of index.md."""

project = "Tinier Zero"
extensions = ["myst_nb", "sphinx-mathjax-offline"]  # the second brings MathJax along: no page loads anything
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "Tinier Zero"
html_show_copyright = html_copy_source = html_show_sourcelink = False
nb_execution_mode = "off"  # build.py has executed them
nb_render_markdown_format = "myst"
nb_ipywidgets_js = {}  # sliders need a kernel, and these scripts the network
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
