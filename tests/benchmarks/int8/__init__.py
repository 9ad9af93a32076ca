"""int8: what it costs and what it gives, beside public tools."""
