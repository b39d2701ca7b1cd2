"""Publish a data set: large shards, an index and a card."""
