"""Tell what a run will take before it runs."""
