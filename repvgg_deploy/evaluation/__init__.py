"""How well networks do a task on labelled images, and how sure that is."""
