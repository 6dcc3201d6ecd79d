"""The stops of docs/tour.md, by what they show, and their pictures; `docs/make_tour.py` has their order."""
