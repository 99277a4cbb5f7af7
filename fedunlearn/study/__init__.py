"""Many runs as one study: which cells there are, playing them, and what they found as rows."""
