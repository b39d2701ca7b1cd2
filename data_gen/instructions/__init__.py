"""Have a language model write edits: captions in, triplets out."""
