"""Ask an endpoint for what only a model knows: paced, paid once, within a budget, journaled."""
