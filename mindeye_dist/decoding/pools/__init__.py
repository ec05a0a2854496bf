"""Pools: the pictures that retrieval chooses from.

In: embeddings (brains, tokens * dim). Out: numbers and cosines of the nearest pictures, and the
pictures' bytes. A pool on disk has a FAISS index and any number of pictures; a split of the shards
is searched in memory. Read gallery.py first: its Protocol is what both have in common.
"""
