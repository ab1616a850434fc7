"""What happens beside a step: averages, pictures, figures, checkpoints."""
