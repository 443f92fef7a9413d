"""The self-test: every way to execute a step, compared with the plain one on a small model and real rows."""
