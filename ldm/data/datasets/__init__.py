"""Published data sets, as sources of framed images."""
