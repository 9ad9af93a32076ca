"""Is the new network the old one? Answered by arithmetic, without a magic tolerance."""
