"""What the commands do: files in, files out."""
