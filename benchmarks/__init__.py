"""What measures the template itself: `python -m benchmarks.<name>`, from a checkout's root; see README.md."""
