"""What is healthy by the course, for every screen that shows it. Importable without torch."""

UPDATE_RATIO = 1e-4, 3e-2
"""The band in which the median update ratio of the weights should lie, around the course's 1e-3. The best
rates under BatchNorm come near its upper end."""
UPDATE_RATIO_TARGET = 1e-3
"""What the course recommends (cs231n, "Neural Networks Part 3", ratio of weights:updates)."""
