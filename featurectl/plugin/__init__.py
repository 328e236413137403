"""The Feast plug-in: stores that Feast loads by class path, and what `apply` needs of Feast."""
