"""What happens beside the loop: checkpoints for the library, lines in the log, pictures, limits."""
