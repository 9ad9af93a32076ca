"""The torch front end: blocks in a model become convolutions, whatever stands around them."""
