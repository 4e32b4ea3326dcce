"""`loadtest run`: a load test as its scenario says, from its devices to its report."""
