"""Storage: bytes by URL, in a folder or under an s3:// prefix.

In: a URL, names and byte ranges. Out: bytes, complete or an error that names object and range. Read
`store.py` first, the one interface. `ranges.py` joins, retries and hedges ranges over a network,
`signed_urls.py` makes requests to S3 cheap, `disk_cache.py` keeps members on the local disk, and
`npy.py` encodes and parses arrays in memory.
"""
