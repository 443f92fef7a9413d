"""What data checking needs a model for."""
