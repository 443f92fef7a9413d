"""Metrics, one family a file: predictions to statistics, statistics to intervals."""
