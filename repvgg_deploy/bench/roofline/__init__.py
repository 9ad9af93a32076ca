"""How far a network is from what this device could do at best."""
