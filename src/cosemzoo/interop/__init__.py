"""Other programs of the field: their configurations, stores and packages, both ways."""
