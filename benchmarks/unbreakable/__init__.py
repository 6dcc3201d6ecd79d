"""What is done to runs, and what they must be like afterwards: the parts of `benchmarks.faults`."""
