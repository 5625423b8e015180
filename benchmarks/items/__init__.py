"""What is measured: one module for each part, with a function ``rows``."""
