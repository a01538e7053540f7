"""Real data to measure the zoo's models on, from registry packages."""
