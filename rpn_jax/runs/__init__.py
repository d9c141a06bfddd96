"""What every run has, whatever it trains: config, folder, metrics, processes, devices."""
