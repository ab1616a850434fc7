"""What happens beside an optimiser step: averages, pictures, figures, checkpoints."""
