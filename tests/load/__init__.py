"""A lean signed S3 client over keep-alive sockets, for benchmarks and chaos: it must not measure itself."""
