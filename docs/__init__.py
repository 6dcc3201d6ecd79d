"""The documents, and what makes their pictures: `python -m docs.make_tour`, from a checkout's root."""
