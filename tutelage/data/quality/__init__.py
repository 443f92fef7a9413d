"""What is wrong with labelled text: faults of rows, repeats, overlaps, distributions. Text only, no tokenizer."""
