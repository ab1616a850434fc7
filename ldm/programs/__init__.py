"""What the programs of ``scripts/`` and of the command ``ldm`` do with their options."""
