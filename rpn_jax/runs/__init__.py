"""Parts of every run, whatever it trains: config, folder, metrics, processes, devices."""
