"""``python -m asgd.compare FOLDER...``: runs side by side, as one page, figures and a table. See docs/results.md."""
