"""What the comparisons share: where things are, how a contender is started and measured, how results are kept."""
