"""What is measured, apart from the tests: `python -m benchmarks [NAME…] [--quick]`, or `make bench`."""
