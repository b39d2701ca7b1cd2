"""Editors: an image and what to do with it in, the edited image out."""
