"""What the programs share: options, sessions, folders of results, error lines."""
