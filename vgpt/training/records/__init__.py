"""What a run says of itself before it trains: settings, conditions, provenance; and whether it is the same run."""
