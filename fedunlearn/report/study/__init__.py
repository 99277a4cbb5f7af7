"""A study: tables and figures over its runs."""
