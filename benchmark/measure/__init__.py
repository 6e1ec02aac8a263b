"""What is measured, each quantity in the file of its name."""
