"""What every stage shares: params, atomic outputs, metric files, errors and the command line."""
