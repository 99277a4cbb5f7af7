"""A deletion request's life on the device: inbox, admission, request store, schedule, purge, receipt."""
