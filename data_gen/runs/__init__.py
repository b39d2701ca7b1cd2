"""Get units made: by whom, with a receipt each, whatever dies on the way."""
