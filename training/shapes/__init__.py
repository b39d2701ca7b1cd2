"""Train the small models of the embedded shapes world from scratch: one module a model."""
