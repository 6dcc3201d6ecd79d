"""Vitals: an experiment template that takes the vital signs of the training."""
