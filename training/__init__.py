"""How the model of the package was made. Nothing of it is in the package; no other room needs it."""
