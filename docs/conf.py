"""The documentation site: `tox -e docs` builds it into site/, and any warning fails the build.

Its source is the repository itself, so that a link between two pages works here and in a clone.
"""

import mlx_simul

project = "mlx_simul"
author = "The mlx_simul contributors"
release = version = mlx_simul.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
include_patterns = [
    "index.md",  # which includes README.md
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "docs/**.md",
    "mlx_simul/models/*/README.md",
]
exclude_patterns = [".*", "models", "site"]
myst_heading_anchors = 3  # "page.md#a-heading" is a link

autodoc_default_options = {"members": True}
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
napoleon_use_ivar = True  # a compact list of attributes
python_maximum_signature_line_length = 88

html_theme = "furo"
html_title = f"mlx_simul {release}"
