"""A verdict for people: as a page, a comment, a few lines of a terminal, and a picture."""
