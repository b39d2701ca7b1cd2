"""From shards, latents and other people's sets to batches, in an order that resumes exactly."""
