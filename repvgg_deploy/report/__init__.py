"""Results as text; formatting lives only here."""
