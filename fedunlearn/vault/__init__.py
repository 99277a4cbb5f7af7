"""The store of one device, its index, and the search for traces of what was deleted."""
