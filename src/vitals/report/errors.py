"""Why a part of the page is left out."""


class LeftOut(Exception):
    """There is nothing to draw: the message says why in half a sentence, such as `no history was kept`."""
