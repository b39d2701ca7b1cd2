"""Inversion: from pictures to noise from which a text-to-image model draws them again."""
