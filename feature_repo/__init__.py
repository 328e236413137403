"""The feature definitions of this repository: plain Feast objects, and the functions that compute them."""
