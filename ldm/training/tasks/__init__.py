"""What is optimised: a task is a ``LightningModule`` around a model."""
