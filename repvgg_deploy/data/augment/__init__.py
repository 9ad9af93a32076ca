"""What training changes in a picture before it is normalised, drawn anew in every epoch."""
