"""One page that says whether the features are right, fresh, complete and stable: what it shows, charts, and HTML."""
