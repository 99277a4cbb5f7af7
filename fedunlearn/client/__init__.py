"""The ClientApp and what a device computes; malicious clients, for tests of the server's guard."""
